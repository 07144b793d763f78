"""The trainer, which connects the other rooms.

Reading order: trainer, arguments, input_pipeline, optimizer, schedule, ema, loss_log, run_summary, recipe_file.
"""
