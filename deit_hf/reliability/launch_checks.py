"""Refuses a run on other processes than its launch asked for: it would train on another global batch, or many times.

Accelerate and torch start the processes and join them; here is only what they pass over in silence.
"""

import os
import sys
from pathlib import Path

import psutil
from accelerate.commands.config import default_config_file, load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.utils import DistributedType
from transformers.trainer_pt_utils import AcceleratorConfig

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # of torchrun and of MPIs
LAUNCHES_ONE = "ACCELERATE_USE_CPU"  # only Accelerate's launcher of a single process sets it


def check_ranks() -> None:
    """Refuses a number of processes without their ranks: each would take itself for the first, and wait forever.

    Raises:
        ValueError: names the variable, and the commands that set all of them.
    """
    asked = int(os.environ.get("WORLD_SIZE") or 1)
    if asked > 1 and "RANK" not in os.environ:
        raise ValueError(f"the environment has WORLD_SIZE {asked} but no RANK; {_commands(asked)}")


def check_launch(
    *, num_processes: int, num_devices: int, distributed_type: DistributedType, asks_for_fsdp: bool
) -> None:
    """Refuses a launch that is not what was asked for.

    Args:
        num_processes: that train together.
        num_devices: GPUs that transformers would use in this process, by `nn.DataParallel`.
        distributed_type: how the processes were joined.
        asks_for_fsdp: whether the options do; Accelerate's configuration may, too.

    Raises:
        ValueError: names what was asked for, what was found, and the commands that start it.
    """
    asked, source = _asked_by_environment()
    if asked is None:
        asked, source = _asked_by_accelerate()
    if asked is not None and asked != num_processes:
        raise ValueError(
            f"{source} asks for {asked} processes, but {num_processes} would train here; {_commands(asked)}"
        )
    if num_devices > 1:
        raise ValueError(
            f"{num_devices} GPUs are visible to one process, which would cut each batch by `nn.DataParallel`; "
            f"{_commands(num_devices)}, or for one GPU CUDA_VISIBLE_DEVICES=0 python {sys.argv[0]} ..."
        )

    asks_for_fsdp |= os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if asks_for_fsdp and distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise ValueError(
            f"FSDP was asked for, but Accelerate shares out weights only over several GPUs, and this is "
            f"{distributed_type.value}; {_commands(num_processes)}, without FSDP"
        )


def check_accelerator_config(config: AcceleratorConfig) -> None:
    """Refuses options of Accelerate's loaders that change which views are a step, or that evaluation waits for.

    Raises:
        ValueError: names the option.
    """
    if config.split_batches:
        raise ValueError(
            "`accelerator_config` has `split_batches`, which would cut the batch of a device by the number of "
            "processes; leave it out, and lower `per_device_train_batch_size` for a smaller global batch"
        )
    if config.dispatch_batches:
        raise ValueError(
            "`accelerator_config` has `dispatch_batches`, with which a resume goes on at other views; "
            "leave it out: each process reads its own views"
        )
    if not config.even_batches:
        raise ValueError(
            "`accelerator_config` has `even_batches` false, with which processes wait for each other forever where "
            "the images of an evaluation do not divide; leave it out: repeated images do not count"
        )
    if "num_steps" in (config.gradient_accumulation_kwargs or {}):
        raise ValueError(
            "`accelerator_config` has `num_steps` for the accumulation, which learning rate and views would not know "
            "of; use `gradient_accumulation_steps`"
        )


def _commands(num_processes: int) -> str:
    script = sys.argv[0]
    return (
        f"start them with: torchrun --nproc_per_node {num_processes} {script} ..., or: accelerate launch --multi_gpu "
        f"--num_processes {num_processes} {script} ... (on CPUs, too)"
    )


def _asked_by_environment() -> tuple[int | None, str]:
    name = next((name for name in WORLD_SIZES if os.environ.get(name)), None)
    return (None, "") if name is None else (int(os.environ[name]), f"the environment ({name})")


def _asked_by_accelerate() -> tuple[int | None, str]:
    """What `accelerate launch` was asked for when it started a single process, as it does without (enough) GPUs.

    It hands on no number, so that only its own command line and configuration file have it.
    """
    if LAUNCHES_ONE not in os.environ:
        return None, ""
    for ancestor in psutil.Process().parents():
        try:
            command, folder = ancestor.cmdline(), ancestor.cwd()
        except psutil.Error:  # of another user, or gone: Accelerate's launcher is neither
            continue
        arguments = _launcher_arguments(command)
        if arguments is not None:
            return _num_processes(arguments, Path(folder)), "`accelerate launch`"
    return None, ""


def _launcher_arguments(command: list[str]) -> list[str] | None:
    """What follows `accelerate launch` in a command line, in each of its spellings; None in another command."""
    for place, word in enumerate(command):
        name, rest = Path(word).name.removesuffix(".exe"), command[place + 1 :]
        if name in ("accelerate-launch", "accelerate.commands.launch"):
            return rest
        if name in ("accelerate", "accelerate.commands.accelerate_cli") and rest[:1] == ["launch"]:
            return rest[1:]
    return None


def _num_processes(arguments: list[str], folder: Path) -> int | None:
    """The number that the launcher's arguments or its configuration ask for, as the launcher itself reads them.

    Args:
        arguments: of `accelerate launch`.
        folder: that it was started in.
    """
    options = launch_command_parser().parse_args(arguments)
    asked = options.num_processes
    if asked is None and options.config_file is not None:
        asked = load_config_from_file(str(folder / options.config_file)).num_processes
    elif asked is None and Path(default_config_file).is_file() and not options.cpu:
        asked = load_config_from_file(None).num_processes
    return asked if asked is not None and asked > 0 else None
