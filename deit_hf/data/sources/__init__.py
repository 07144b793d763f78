"""Sources of rows: the Hub, local files and folders, streams.

Reading order: arguments, load, columns, digits, class_folders, folder_layout, shards, label_files, image_paths,
untrusted_rows.
"""
