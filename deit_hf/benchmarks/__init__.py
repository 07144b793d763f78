"""Speed next to other packages.

Reading order: input.
"""
