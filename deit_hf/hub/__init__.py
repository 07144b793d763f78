"""Sharing a model.

Reading order: run_files, model_facts, model_card, public_text, upload, push, pushing_trainer.
"""
