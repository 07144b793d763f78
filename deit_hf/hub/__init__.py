"""Model cards, and pushing a finished run to the Hub.

Reading order: run_files, markdown, public_text, model_facts, trainer_facts, model_card, upload, push, pushing_trainer.
"""
