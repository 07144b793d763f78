"""Runs scripts/train.py with FSDP2 on CPUs, with the same arguments.

Accelerate supports FSDP2 only on GPUs. So the processes connect with gloo as usual, and then claim to be GPUs.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

connect = PartialState.__init__


def connect_as_gpus(self: PartialState, *args: Any, **options: Any) -> None:
    connect(self, *args, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = connect_as_gpus
script = Path(__file__).parents[2] / "scripts" / "train.py"
sys.argv[0] = str(script)
runpy.run_path(str(script), run_name="__main__")
