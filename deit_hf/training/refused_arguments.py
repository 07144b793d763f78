"""Options of transformers' `TrainingArguments` that this trainer refuses."""

from pathlib import Path

from transformers import TrainingArguments

from ..hub.push import check_repository_name

# Options that would have no effect on pictures and views, or a wrong one: by name the reason, and what to do.
REFUSED = {
    "label_names": "the labels are those of `label_column_name`",
    "length_column_name": "pictures have no lengths; the columns are `image_column_name` and `label_column_name`",
    "include_num_input_tokens_seen": "pictures have no such tokens; the log has samples per second",
    "neftune_noise_alpha": "it is for embeddings of text; views have `mixup_alpha` and `random_augment`",
    "use_liger_kernel": "it is for language models; `torch_compile` makes a student faster",
    "liger_kernel_config": "it is for language models; `torch_compile` makes a student faster",
    "dataloader_drop_last": "an epoch of views has whole steps anyway, and an evaluation counts every image",
    "ignore_data_skip": "a resumed run shows the views that are still to come; to skip the others decodes no image",
    "eval_accumulation_steps": "metrics are counted by batch; lower `per_device_eval_batch_size`",
    "logging_nan_inf_filter": "a loss that is not finite stops the training or is skipped, and never enters the log",
    "auto_find_batch_size": "set `per_device_train_batch_size` and `gradient_accumulation_steps`, whose product with "
    "the processes is the global batch; an out-of-memory error names a smaller pair with the same product",
    "hub_always_push": "the finished run is pushed once",
    "hub_strategy": "checkpoints stay on this machine, and the finished run is pushed once, as with 'end'",
    "do_predict": "a `test` part is measured at the end by itself; for single pictures use scripts/predict.py",
}


def check_supported(args: TrainingArguments) -> None:
    """Refuses options whose work this trainer does in another way.

    Raises:
        ValueError: names the option, and what to do instead.
    """
    if args.label_smoothing_factor:
        raise ValueError(
            f"`label_smoothing_factor` is {args.label_smoothing_factor}, but must be 0: it would smooth a second "
            "time; use `label_smoothing`"
        )
    if args.remove_unused_columns or not args.batch_eval_metrics:
        raise ValueError("`remove_unused_columns` must be false and `batch_eval_metrics` true; leave both out")
    for name, reason in REFUSED.items():
        default = type(args).__dataclass_fields__[name].default
        value = getattr(args, name)
        if value not in (default, False) and (value or default):
            raise ValueError(f"`{name}` is {value!r}, but is not supported here: {reason}; leave it out")
    if args.enable_jit_checkpoint:
        raise ValueError(
            "`enable_jit_checkpoint` is true, but a signal always saves a complete checkpoint here; leave it out"
        )
    if args.train_sampling_strategy != "random":
        raise ValueError(
            f"`train_sampling_strategy` is {args.train_sampling_strategy!r}, but must be 'random': the order of "
            "views is a function of the seed and the epoch"
        )
    if args.push_to_hub:  # a wrong name would only show at the end
        check_repository_name(args.hub_model_id or Path(args.output_dir or "trainer_output").name)
