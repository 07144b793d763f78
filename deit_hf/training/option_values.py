"""Checks option values that transformers would refuse late, in a traceback, or without the name of the option.

Also checks options that contradict each other.
"""

import difflib
import json
import os
from typing import Any

from transformers import TrainingArguments
from transformers.integrations import get_available_reporting_integrations

from ..argument_checks import check
from .timm_optimizers import check_timm_optimizer

# The names that `report_to` accepts, each with its package for `pip install`.
TRACKERS = {
    "azure_ml": "azureml-core",
    "clearml": "clearml",
    "codecarbon": "codecarbon",
    "comet_ml": "comet-ml",
    "dagshub": "dagshub",
    "dvclive": "dvclive",
    "flyte": "flytekit",
    "kubeflow": "kubeflow",
    "mlflow": "mlflow",
    "neptune": "neptune",
    "swanlab": "swanlab",
    "tensorboard": "tensorboard",
    "trackio": "trackio",
    "wandb": "wandb",
}
LEAST = {  # smallest valid value
    "seed": 0,
    "data_seed": 0,
    "save_total_limit": 1,
    "dataloader_num_workers": 0,
    "per_device_eval_batch_size": 1,
    "warmup_steps": 0,
}
ONLY_JSON = ("lr_scheduler_kwargs", "gradient_checkpointing_kwargs", "activation_checkpointing_kwargs")
JSON_OR_FILE = ("accelerator_config", "fsdp_config", "deepspeed")
OPTIMIZERS_WITH_OUR_GROUPS = ("adamw_torch", "adamw_torch_fused", "sgd")  # others create their own groups


def check_option_values(args: TrainingArguments) -> None:
    """Refuses invalid values before transformers reads them.

    Raises:
        FileNotFoundError: an option names a file that does not exist.
        TypeError: the value of an option is not a mapping.
        ValueError: names the option, its value and the next step.
    """
    if not str(args.output_dir or "trainer_output").strip():
        raise ValueError("`output_dir` is empty; set it to a directory")
    _check_trackers(args.report_to)
    _check_ranges(args)
    for name in (*ONLY_JSON, *JSON_OR_FILE):
        _check_mapping(name, getattr(args, name, None))
    if args.dataloader_persistent_workers and not args.dataloader_num_workers:
        raise ValueError(
            "`dataloader_persistent_workers` is true, but `dataloader_num_workers` is 0; set it to 1 or more, or "
            "leave `dataloader_persistent_workers` out"
        )
    if args.max_steps <= 0 and args.num_train_epochs == 0:
        raise ValueError(
            f"`num_train_epochs` is {args.num_train_epochs:g} and `max_steps` is {args.max_steps}, so there is "
            "nothing to train; raise one of them, or evaluate a model with deit-hf evaluate"
        )
    if args.metric_for_best_model is not None and args.eval_strategy == "no":
        raise ValueError(
            f"`metric_for_best_model` is {args.metric_for_best_model!r}, but `eval_strategy` is 'no', so it is "
            "never measured; set `eval_strategy` to 'epoch' or 'steps', or leave it out"
        )


def _check_ranges(args: TrainingArguments) -> None:
    for name, least in LEAST.items():
        if getattr(args, name) is not None:
            check(name, getattr(args, name), lambda v, least=least: v >= least, f"{least} or more")  # type: ignore[misc]
    for strategy, option in (("save_strategy", "save_steps"), ("eval_strategy", "eval_steps")):
        value = getattr(args, option)
        if getattr(args, strategy) == "steps" and value is not None:
            check(option, value, lambda v: v > 0, f"more than 0 while `{strategy}` is 'steps'; 'no' turns it off")
    if args.optim_args and not all("=" in part for part in str(args.optim_args).split(",")):
        raise ValueError(f"`optim_args` is {args.optim_args!r}, but must be name=value pairs separated by commas")
    if args.max_steps < -1:
        raise ValueError(f"`max_steps` is {args.max_steps}, but must be 1 or more, or -1 to use `num_train_epochs`")


def check_contradictions(args: Any) -> None:
    """Refuses options of `DistillationArguments` that contradict each other.

    Raises:
        ValueError: names both options and their values.
    """
    if args.overwrite_output_dir and args.resume_from_checkpoint is not None:
        raise ValueError(
            "`overwrite_output_dir` is true, which starts again at step 0, but `resume_from_checkpoint` is "
            f"{args.resume_from_checkpoint!r}; set only one of them"
        )
    if args.label_loss == "binary_cross_entropy" and args.label_smoothing:
        raise ValueError(
            f"`label_loss` is 'binary_cross_entropy', but `label_smoothing` is {args.label_smoothing}, with which "
            "every class would count as present in every image; set `label_smoothing` to 0"
        )
    if args.teacher_cache is not None and args.distillation_type == "none":
        raise ValueError(
            f"`teacher_cache` is {args.teacher_cache!r}, but `distillation_type` is 'none', so no answer is used; set "
            "it to 'hard' or 'soft', or leave `teacher_cache` out"
        )
    if args.teacher_cache is not None and args.output_dir and _same_place(args.teacher_cache, args.output_dir):
        raise ValueError(
            f"`teacher_cache` and `output_dir` are both {args.output_dir}; name different directories for the stored "
            "answers and the model"
        )
    _check_optimization(args)


def _same_place(first: str, second: str) -> bool:
    return os.path.abspath(first) == os.path.abspath(second)


def _check_optimization(args: Any) -> None:
    if args.timm_optimizer is not None:
        check_timm_optimizer(args.timm_optimizer)
        if args.optim != args.default_optim:
            raise ValueError(
                f"`optim` is {str(args.optim)!r} and `timm_optimizer` is {args.timm_optimizer!r}; set only one of them"
            )
    elif args.layer_decay < 1 and args.optim not in OPTIMIZERS_WITH_OUR_GROUPS:
        raise ValueError(
            f"`layer_decay` is {args.layer_decay}, but `optim` {str(args.optim)!r} does not support it; use one of "
            f"{', '.join(OPTIMIZERS_WITH_OUR_GROUPS)}, or `timm_optimizer`"
        )
    if args.student_mode == "eval" and args.gradient_checkpointing:
        raise ValueError(
            "`student_mode` is 'eval', but `gradient_checkpointing` only works in 'train'; leave one of them out"
        )


def check_stream_options(args: TrainingArguments, advice: str) -> None:
    """Refuses options that have an effect only on a stream, if the training data is not a stream.

    Args:
        args: `DistillationArguments`.
        advice: how to use a stream, for the error.

    Raises:
        ValueError: names the option.
    """
    for name in ("num_streams", "num_train_samples", "shuffle_buffer_size"):
        if getattr(args, name) != type(args).__dataclass_fields__[name].default:
            raise ValueError(
                f"`{name}` is {getattr(args, name)}, but only has an effect on a stream; {advice} or leave it out"
            )


def _check_trackers(report_to: None | str | list[str]) -> None:
    names = [report_to] if isinstance(report_to, str) else report_to or []
    if names in (["none"], ["all"], []):
        return
    for name in names:
        if name not in TRACKERS:
            close = difflib.get_close_matches(str(name), [*TRACKERS, "none", "all"], n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise ValueError(
                f"`report_to` has {name!r}, but must be 'none' or 'all' alone, or some of {', '.join(TRACKERS)}{hint}"
            )
        if name not in get_available_reporting_integrations():
            raise ValueError(
                f"`report_to` has {name!r}, which is not installed; run `pip install {TRACKERS[name]}`, or set "
                "`report_to` to 'none'"
            )


def _check_mapping(name: str, value: Any) -> None:
    """Refuses text that is neither a JSON object nor, for options that accept one, a file."""
    if not value or isinstance(value, dict):
        return
    if isinstance(value, str | os.PathLike) and name in JSON_OR_FILE and not str(value).lstrip().startswith("{"):
        if not os.path.isfile(value):
            raise FileNotFoundError(
                f"`{name}` is {value}, but this file does not exist; name a file, or pass a JSON object"
            )
        return
    if not isinstance(value, str):
        if name in ONLY_JSON:
            raise TypeError(f"`{name}` is {value!r}, but must be a mapping of names to values, or a JSON object")
        return
    try:
        parsed = json.loads(value)
    except json.JSONDecodeError as error:
        raise ValueError(
            f'`{name}` is {value!r}, which is not valid JSON ({error}); write it as {{"name": 1}}'
        ) from error
    if not isinstance(parsed, dict):
        raise ValueError(f'`{name}` is {value!r}, but must be a JSON object such as {{"name": 1}}')
