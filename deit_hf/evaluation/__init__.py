"""How good a model is.

Reading order: fusion, metric_names, balance, metrics, own_metrics, teacher_accuracy, predict, compare, arguments.
"""
