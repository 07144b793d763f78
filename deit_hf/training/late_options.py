"""Options that are changed on `trainer.args` after the trainer was created."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .arguments import DistillationArguments

# Options that are read only when the trainer is created: for the accelerator, the callbacks and the frozen weights.
READ_ONCE = {"bf16", "fp16", "tf32", "use_cpu", "full_determinism", "deepspeed", "fsdp", "fsdp_config", "ddp_backend"}
READ_ONCE |= {"accelerator_config", "parallelism_config", "torch_compile", "torch_compile_backend", "ddp_timeout"}
READ_ONCE |= {"torch_compile_mode", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"}
READ_ONCE |= {"ddp_static_graph", "report_to", "disable_tqdm", "log_level", "log_level_replica", "train_only"}
READ_ONCE |= {"skip_memory_metrics", "verbose"}


def options_of(args: DistillationArguments) -> dict[str, Any]:
    """The current values of all options, by name."""
    return {option.name: getattr(args, option.name) for option in dataclasses.fields(args)}


def refuse_late_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses changes that would have no effect, because the option was already read.

    Args:
        before: the options when the trainer was created.
        now: the options when the training begins.

    Raises:
        ValueError: names the option and both values.
    """
    for name in sorted(READ_ONCE):
        if name in before and before[name] != now[name]:
            raise ValueError(
                f"`{name}` is {now[name]!r}, but was {before[name]!r} when the trainer was created, and is only "
                "read then; create a new trainer with these options"
            )
