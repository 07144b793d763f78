"""The trainer, which connects the rooms below it.

Reading order: run, preflight, trainer, teacher_trainer, answer_store, answer_filling, answer_batches, logging_trainer,
optimizing_trainer, view_trainer, trainer_arguments, arguments, derived_options, evaluation_times, late_options,
refused_arguments, option_ranges, option_values, hub_token, global_batch, input_pipeline, optimizer, timm_optimizers,
schedule, schedule_options, ema, loss_log, data_wait, input_report, progress, console, class_weights, small_runs,
teacher_warning, run_figures, run_summary, recipe_file, shipped_recipes, changeable_options, same_run, card_facts,
saved_model.
"""
