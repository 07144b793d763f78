"""Figures and tables about models and runs.

Reading order: curves, model_cost, latency.
"""
