"""Options that are changed on `trainer.args` after the trainer was made."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from .arguments import DistillationArguments

# What transformers' Trainer reads when it is made, and never again: accelerator, callbacks, weights that are frozen.
READ_ONCE = {"bf16", "fp16", "tf32", "use_cpu", "full_determinism", "deepspeed", "fsdp", "fsdp_config", "ddp_backend"}
READ_ONCE |= {"accelerator_config", "parallelism_config", "torch_compile", "torch_compile_backend", "ddp_timeout"}
READ_ONCE |= {"torch_compile_mode", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_broadcast_buffers"}
READ_ONCE |= {"ddp_static_graph", "report_to", "disable_tqdm", "log_level", "log_level_replica", "train_only"}
READ_ONCE |= {"skip_memory_metrics"}


def options_of(args: DistillationArguments) -> dict[str, Any]:
    """All options by name, as they are now."""
    return {option.name: getattr(args, option.name) for option in dataclasses.fields(args)}


def refuse_late_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuses changes that would have no effect any more.

    Args:
        before: options when the trainer was made.
        now: options when the training begins.

    Raises:
        ValueError: names the option and both values.
    """
    for name in sorted(READ_ONCE):
        if name in before and before[name] != now[name]:
            raise ValueError(
                f"`{name}` is {now[name]!r}, but was {before[name]!r} when the trainer was made, which has set itself "
                "up for that; make a new trainer with these options"
            )
