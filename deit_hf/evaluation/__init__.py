"""How good a model is.

Reading order: fusion, metrics, teacher_accuracy, predict, compare, arguments.
"""
