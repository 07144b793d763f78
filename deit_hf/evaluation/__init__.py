"""How good a model is.

Reading order: fusion, metric_names, metrics, own_metrics, teacher_accuracy, predict, compare, arguments.
"""
