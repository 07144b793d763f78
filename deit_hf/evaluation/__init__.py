"""Accuracy of models, and the predictions of a saved model.

Reading order: fusion, metric_names, accuracy_text, confusion, metrics, own_metrics, intervals, answers,
confident_answers, calibration, teacher_accuracy, teacher_fit, predict, compare, arguments.
"""
