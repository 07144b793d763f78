"""The distillation losses and the teacher.

Reading order: losses, teacher.
"""
