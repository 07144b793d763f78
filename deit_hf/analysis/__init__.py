"""Figures and tables about models and runs.

Reading order: curves, row_plot, token_similarity, model_cost, flops, latency, report_facts,
report_figures, report_page.
"""
