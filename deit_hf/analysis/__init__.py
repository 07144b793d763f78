"""Figures and tables about models and runs.

Reading order: curves, views_figure, row_plot, token_similarity, attention, attention_figures, page_template,
attention_page, model_cost, flops, latency, confusion_matrix, report_facts, report_figures, report_page, demo,
demo_page.
"""
