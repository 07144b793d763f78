"""What is learnt from a teacher.

Reading order: losses, teacher.
"""
