"""Options of transformers' `TrainingArguments` that this trainer refuses."""

from pathlib import Path

from transformers import TrainingArguments

from ..hub.push import check_repository_name

# Options that would have no effect on images and views, or a wrong one: name -> the reason, and what to do instead.
REFUSED = {
    "label_names": "labels are read from `label_column_name`",
    "length_column_name": "images have no length; the columns are `image_column_name` and `label_column_name`",
    "include_num_input_tokens_seen": "images have no input tokens; the log has samples per second",
    "neftune_noise_alpha": "it is for text embeddings; for images there are `mixup_alpha` and `random_augment`",
    "use_liger_kernel": "it is for language models; use `torch_compile` for a faster student",
    "liger_kernel_config": "it is for language models; use `torch_compile` for a faster student",
    "dataloader_drop_last": "a training epoch always has whole steps, and an evaluation counts every image",
    "ignore_data_skip": "a resumed run continues with the remaining views; skipping the earlier ones decodes no image",
    "eval_accumulation_steps": "metrics are computed by batch; to save memory, lower `per_device_eval_batch_size`",
    "logging_nan_inf_filter": "a non-finite loss stops the training or is skipped, and is never logged",
    "auto_find_batch_size": "set `per_device_train_batch_size` and `gradient_accumulation_steps`; if memory runs out, "
    "the error names a smaller batch and more accumulation steps that keep the global batch",
    "hub_always_push": "the finished run is pushed once",
    "hub_strategy": "checkpoints are not pushed; the finished run is pushed once, as with 'end'",
    "do_predict": "a `test` part is always evaluated at the end; for single images, use deit-hf predict",
}


def check_supported(args: TrainingArguments) -> None:
    """Refuses options that this trainer replaces or does not support.

    Raises:
        ValueError: names the option and what to do instead.
    """
    if args.label_smoothing_factor:
        raise ValueError(
            f"`label_smoothing_factor` is {args.label_smoothing_factor}, but must be 0, because it would "
            "smooth the labels a second time; use `label_smoothing`"
        )
    for name, needed in (("remove_unused_columns", False), ("batch_eval_metrics", True)):
        if getattr(args, name) is not needed:
            raise ValueError(f"`{name}` is {getattr(args, name)}, but must be {needed}; leave it out")
    for name, reason in REFUSED.items():
        default = type(args).__dataclass_fields__[name].default
        value = getattr(args, name)
        if value not in (default, False) and (value or default):
            raise ValueError(f"`{name}` is {value!r}, but is not supported here: {reason}; leave it out")
    if args.enable_jit_checkpoint:
        raise ValueError(
            "`enable_jit_checkpoint` is true, but this trainer always saves a complete checkpoint after a signal; "
            "leave it out"
        )
    if args.train_sampling_strategy != "random":
        raise ValueError(
            f"`train_sampling_strategy` is {args.train_sampling_strategy!r}, but must be 'random', because the "
            "order of the views depends only on the seed and the epoch; leave it out"
        )
    if args.push_to_hub:  # otherwise an invalid name would only be noticed at the end
        check_repository_name(args.hub_model_id or Path(args.output_dir or "trainer_output").name)
