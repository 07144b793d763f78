"""Options of transformers' `TrainingArguments` that this trainer refuses."""

from pathlib import Path

from transformers import TrainingArguments

from ..hub.push import check_repository_name


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
    if args.logging_nan_inf_filter:
        raise ValueError(
            "`logging_nan_inf_filter` is true, but must be false: a loss that is not finite stops the training or is "
            "skipped (`max_bad_steps`), and never enters the log"
        )
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
