"""Sharing a model.

Reading order: run_files, model_facts, model_card, push, pushing_trainer.
"""
