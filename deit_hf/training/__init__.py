"""The trainer, which connects the other rooms.

Reading order: trainer, arguments, refused_arguments, hub_token, global_batch, input_pipeline, optimizer,
timm_optimizers, schedule, ema, loss_log, run_summary, recipe_file, changeable_options, same_run.
"""
