"""From a row to a picture, a view and a batch.

Reading order: sampling (which view comes when), dataset (a key becomes a view), decoding, transforms, mixing;
streaming and shuffling for data beyond one disk; bad_images and worker_crashes for what goes wrong; fingerprint tells
data apart. Rows come from sources/.
"""
