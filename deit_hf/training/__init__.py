"""The trainer, which connects the other rooms.

Reading order: trainer, arguments, refused_arguments, hub_token, global_batch, input_pipeline, optimizer,
timm_optimizers, schedule, schedule_options, ema, loss_log, small_runs, run_summary, recipe_file, changeable_options,
same_run, class_weights, card_facts.
"""
