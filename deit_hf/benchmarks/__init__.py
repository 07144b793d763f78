"""Benchmarks against other packages.

Reading order: input.
"""
