"""From a row to a picture, a view and a batch.

Reading order: sampling (which view comes when), dataset (a key becomes a view), decoding, transforms, mixing;
streaming and shuffling for data beyond one disk; check for what the data holds; bad_images and worker_crashes for
what goes wrong; fingerprint for what the data is, by content. Rows come from sources/.
"""
