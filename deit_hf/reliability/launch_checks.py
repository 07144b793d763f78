"""Refuses a run whose processes differ from those that the launch asked for.

Such a run would use another global batch, or each process would train on its own. Accelerate and torch start and
connect the processes; this module checks only what they accept without an error.
"""

import os
import sys
from pathlib import Path

from accelerate.utils import DistributedType
from transformers.trainer_pt_utils import AcceleratorConfig

WORLD_SIZES = ("WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE")  # torchrun, MPIs
# Without enough GPUs, Accelerate starts one process. It sets this variable, and MASTER_ADDR if several were asked for.
LAUNCHES_ONE = "ACCELERATE_USE_CPU"


def check_ranks() -> None:
    """Refuses a world size without a rank: each process would act as the first one and wait forever.

    Raises:
        ValueError: RANK is missing; names the commands that set it.
    """
    asked = int(os.environ.get("WORLD_SIZE") or 1)
    if asked > 1 and "RANK" not in os.environ:
        raise ValueError(f"the environment has WORLD_SIZE {asked} but no RANK; {_commands(asked)}")


def check_launch(
    *, num_processes: int, num_devices: int, distributed_type: DistributedType, asks_for_fsdp: bool
) -> None:
    """Refuses processes that differ from those that the launch asked for.

    Args:
        num_processes: number of processes that train together.
        num_devices: GPUs that transformers would use in this process, with `nn.DataParallel`.
        distributed_type: how the processes are connected.
        asks_for_fsdp: whether the options ask for FSDP; the configuration of Accelerate can ask for it, too.

    Raises:
        ValueError: they differ; names what was asked for, what was found, and the commands to start.
    """
    asked, source = _asked_by_environment()
    if asked is not None and asked != num_processes:
        raise ValueError(
            f"{source} asks for {asked} processes, but {num_processes} would train here; {_commands(asked)}"
        )
    if asked is None and num_processes == 1 and LAUNCHES_ONE in os.environ and "MASTER_ADDR" in os.environ:
        raise ValueError(
            "`accelerate launch` was asked for several processes (MASTER_ADDR is set), but started only this one; "
            f"{_commands('N')}; for a single process use `--num_processes 1` and unset MASTER_ADDR"
        )
    if num_devices > 1:
        raise ValueError(
            f"{num_devices} GPUs are visible to one process, which would split each batch with `nn.DataParallel`; "
            f"{_commands(num_devices)}, or use one GPU: CUDA_VISIBLE_DEVICES=0 python {_program()} ..."
        )

    asks_for_fsdp |= os.environ.get("ACCELERATE_USE_FSDP") == "true"
    if asks_for_fsdp and distributed_type in (DistributedType.NO, DistributedType.MULTI_CPU):
        raise ValueError(
            f"FSDP was asked for, but Accelerate shards weights only over several GPUs, and its distributed type here "
            f"is `{distributed_type.value}`; {_commands(num_processes)}, without FSDP"
        )


def check_accelerator_config(config: AcceleratorConfig) -> None:
    """Refuses options of Accelerate's loaders that change the views of a step or let an evaluation wait forever.

    Raises:
        ValueError: such an option is set; names it.
    """
    if config.split_batches:
        raise ValueError(
            "`accelerator_config` has `split_batches`, which would divide the batch of a device by the number of "
            "processes; leave it out, and lower `per_device_train_batch_size` for a smaller global batch"
        )
    if config.dispatch_batches:
        raise ValueError(
            "`accelerator_config` has `dispatch_batches`, with which a resumed run would see other views; leave it "
            "out: each process reads its own views"
        )
    if not config.even_batches:
        raise ValueError(
            "`accelerator_config` has `even_batches` false, with which processes wait for each other forever if the "
            "images of an evaluation cannot be divided evenly; leave it out: repeated images are not counted"
        )
    if "num_steps" in (config.gradient_accumulation_kwargs or {}):
        raise ValueError(
            "`accelerator_config` has `num_steps` for the accumulation, which the learning rate and the views would "
            "ignore; use `gradient_accumulation_steps`"
        )


def _commands(num_processes: int | str) -> str:
    program = _program()
    return (
        f"start the processes with: torchrun --nproc_per_node {num_processes} {program} ..., or: accelerate launch "
        f"--multi_gpu --num_processes {num_processes} {program} ... (also on CPUs)"
    )


def _program() -> str:
    """What launchers and python start: a script, or the sub-command of `deit-hf` that runs now."""
    is_command = Path(sys.argv[0]).stem in ("deit-hf", "__main__")
    return " ".join(["-m deit_hf", *sys.argv[1:2]]) if is_command else sys.argv[0]


def _asked_by_environment() -> tuple[int | None, str]:
    name = next((name for name in WORLD_SIZES if os.environ.get(name)), None)
    return (None, "") if name is None else (int(os.environ[name]), f"the environment ({name})")
