"""How good a model is.

Reading order: fusion, metric_names, balance, metrics, teacher_accuracy, predict, compare, arguments.
"""
