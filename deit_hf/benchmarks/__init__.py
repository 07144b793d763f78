"""Benchmarks against other packages.

Reading order: comparison, peers, input, model, contenders, training, peer_training.
"""
