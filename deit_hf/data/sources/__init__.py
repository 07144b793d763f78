"""Where rows come from.

Reading order: arguments, load, digits, shards, label_files, untrusted_rows.
"""
