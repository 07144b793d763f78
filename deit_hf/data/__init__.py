"""From a row to an image, a view and a batch.

Reading order: sampling (the order of the views), dataset (from a key to its view), decoding, transforms, mixing,
finishing; streaming and shuffling for data that does not fit on one disk; contents and holdout (a validation part by
content); check (a report of the data); resizing, shard_files, prepare_report and prepare (images resized once);
bad_images and worker_crashes for errors; fingerprint (identifies the data by its content). Rows come from sources/.
"""
