"""Model cards, and pushing a finished run or a store of teacher answers to the Hub.

Reading order: run_files, markdown, public_text, model_facts, trainer_facts, model_card, store_card,
store_files, upload, push, pushing_trainer, space.
"""
