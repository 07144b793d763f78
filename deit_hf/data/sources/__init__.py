"""Where rows come from.

Reading order: arguments, load, digits, class_folders, folder_layout, shards, label_files, untrusted_rows.
"""
