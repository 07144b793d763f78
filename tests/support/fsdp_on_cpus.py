"""scripts/train.py under FSDP2 on CPUs, which Accelerate only does on GPUs: takes the same arguments.

The processes are joined by gloo as always; here they then say of themselves that they are GPUs.
"""

import runpy
import sys
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

join = PartialState.__init__


def join_as_gpus(self: PartialState, *args: Any, **options: Any) -> None:
    join(self, *args, **options)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = join_as_gpus
script = Path(__file__).parents[2] / "scripts" / "train.py"
sys.argv[0] = str(script)
runpy.run_path(str(script), run_name="__main__")
