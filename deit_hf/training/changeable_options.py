"""Which options may change when a run is resumed; all others are refused unless `allow_changes` names them."""

import dataclasses
import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from ..data.sources.arguments import DataArguments
from ..model.arguments import ModelArguments
from ..reliability.run_identity import Difference

Kind = Literal["harmless", "logged", "refused", "fixed"]

# Not recorded: they belong to one start of the run, or are secret.
NOT_RECORDED = {"allow_changes", "overwrite_output_dir", "resume_from_checkpoint", "local_rank", "hub_token"}

# The weights do not depend on these.
HARMLESS = {"output_dir", "do_train", "do_eval", "do_predict", "skip_memory_metrics", "debug"}
HARMLESS |= {"logging_strategy", "logging_steps", "logging_first_step", "logging_nan_inf_filter", "log_level"}
HARMLESS |= {"log_level_replica", "log_on_each_node", "include_num_input_tokens_seen", "disable_tqdm", "report_to"}
HARMLESS |= {
    "run_name",
    "verbose",
    "training_views",
    "project",
    "trackio_space_id",
    "trackio_bucket_id",
    "trackio_static_space_id",
}
HARMLESS |= {"eval_strategy", "eval_steps", "eval_delay", "eval_on_start", "per_device_eval_batch_size"}
HARMLESS |= {"eval_accumulation_steps", "eval_do_concat_batches", "eval_use_gather_object", "prediction_loss_only"}
HARMLESS |= {"include_for_metrics", "batch_eval_metrics", "bf16_full_eval", "fp16_full_eval", "evaluate_teacher"}
HARMLESS |= {"fusion", "eval_split", "label_file", "max_eval_samples", "validation_dir"}
HARMLESS |= {"eval_crop", "crop_ratio", "load_best_model_at_end"}
HARMLESS |= {"save_strategy", "save_steps", "save_total_limit", "save_only_model", "save_on_each_node"}
HARMLESS |= {"push_to_hub", "hub_model_id", "hub_strategy", "hub_private_repo", "hub_always_push", "hub_revision"}
HARMLESS |= {"model_license"}
HARMLESS |= {"dataloader_num_workers", "dataloader_pin_memory", "dataloader_persistent_workers"}
HARMLESS |= {"dataloader_prefetch_factor", "dataloader_multiprocessing_context"}
# How the machine is used.
HARMLESS |= {"use_cpu", "ddp_backend", "ddp_timeout", "ddp_bucket_cap_mb", "ddp_find_unused_parameters"}
# The batch that results from `min_steps_per_epoch` is compared. An image or step that is skipped now would have ended
# the stored run.
HARMLESS |= {"min_steps_per_epoch", "torch_empty_cache_steps", "on_bad_image", "max_bad_steps"}
# Names and paths; the content is compared instead, as the facts `data`, `classes`, `teacher` and `student`.
HARMLESS |= {"dataset_name", "dataset_config_name", "train_dir", "train_split", "max_train_samples", "num_labels"}
HARMLESS |= {"train_val_split"}
HARMLESS |= {"image_column_name", "label_column_name", "model_name_or_path", "teacher_model_name_or_path"}
HARMLESS |= {"teacher_cache", "teacher_dtype"}

# Their product is compared.
GLOBAL_BATCH = ("per_device_train_batch_size", "num_processes", "gradient_accumulation_steps")
RATES = {"learning_rate", "base_learning_rate"}
LENGTHS = {"num_train_epochs", "max_steps"}

# The content of a checkpoint depends on these: the optimizer's state, or the best value of a metric.
FIXED = {"optim", "optim_args", "optim_target_modules", "timm_optimizer", "optimizer", "layer_decay", "train_only"}
FIXED_ONCE_GIVEN = {"metric_for_best_model", "greater_is_better"}
STATEFUL_SCHEDULES = {"reduce_lr_on_plateau", "greedy"}

FACTS = ("classes", "data", "teacher", "teacher_labels", "student", "optimizer", "libraries")


def kind_of(difference: Difference, stored_options: Mapping[str, Any], given_options: Mapping[str, Any]) -> Kind:
    """Classifies a difference between the record of a run and the training that resumes it.

    Args:
        difference: in an option or fact.
        stored_options: the training options in the record.
        given_options: the training options of this start.

    Returns:
        `harmless`: the weights do not depend on it. `logged`: they do, but it may change, and the change is logged.
        `refused`: it may only change if `allow_changes` names it. `fixed`: it cannot change within a run.
    """
    name, stored, given = difference
    if name in HARMLESS:
        return "harmless"
    if name in GLOBAL_BATCH:
        stored_batch, given_batch = (
            math.prod(options[part] for part in GLOBAL_BATCH) for options in (stored_options, given_options)
        )
        return "harmless" if stored_batch == given_batch else "refused"
    if name in RATES:
        # these schedules continue from the learning rate that they have reached
        return "fixed" if given_options.get("lr_scheduler_type") in STATEFUL_SCHEDULES else "logged"
    if name == "libraries" or (name in LENGTHS and stored is not None and 0 < stored < (given or 0)):
        return "logged"
    if name == "num_train_epochs" and None in (stored, given):
        return "harmless"  # then `max_steps`, which also differs, sets the length of the training
    if name == "classes":  # the heads keep the stored order, so the index of a class cannot change
        moved = [each for each in set(stored) & set(given) if stored.index(each) != given.index(each)]
        return "fixed" if moved else "refused"
    if name in FIXED_ONCE_GIVEN:
        return "harmless" if None in (stored, given) else "fixed"
    if name == "lr_scheduler_type" and STATEFUL_SCHEDULES & {stored, given}:
        return "fixed"
    return "fixed" if name in FIXED else "refused"


def check_allowed_changes(names: Sequence[str], options: type) -> None:
    """Refuses names in `allow_changes` that are unknown or cannot be allowed.

    Args:
        names: the value of `allow_changes`.
        options: the class of the training options.

    Raises:
        ValueError: a name is not a recorded option or fact, or is something that cannot change within a run.
    """
    own = {option.name for group in (options, ModelArguments, DataArguments) for option in dataclasses.fields(group)}
    known = (own - NOT_RECORDED) | {*FACTS, *GLOBAL_BATCH}
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean `{close[0]}`?" if close else ""
            raise ValueError(
                f"`allow_changes` has {name!r}, but can only name options that a run records, or one of "
                f"{', '.join(FACTS)}{hint}"
            )
        if name in FIXED:
            raise ValueError(
                f"`allow_changes` has `{name}`, which cannot change within a run; start a new run from the weights of "
                "a checkpoint with `model_name_or_path`"
            )
