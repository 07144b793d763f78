"""The memory of a long training does not grow after its beginning."""

from pathlib import Path
from statistics import median

import datasets
import psutil
import pytest
from support.trainers import make_args
from transformers import TrainerCallback

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationTrainer

NUM_STEPS = 2400
ALLOWED_GROWTH = 8 * 2**20  # bytes, of about 950 MiB in total: 5 KiB per step, a twentieth of a batch


class MemoryLog(TrainerCallback):
    """Records the resident memory in bytes every 20 steps: of this process, and of the largest worker (0 if none)."""

    def __init__(self) -> None:
        self.main: list[int] = []
        self.worker: list[int] = []

    def on_step_end(self, args, state, control, **kwargs) -> None:
        if state.global_step % 20 == 0:
            process = psutil.Process()
            self.main.append(process.memory_info().rss)
            self.worker.append(max((child.memory_info().rss for child in process.children()), default=0))


def growth(sizes: list[int]) -> float:
    """Growth from the second sixth of the training, after the warm-up of caches, to the last sixth."""
    sixth = len(sizes) // 6
    return median(sizes[-sixth:]) - median(sizes[sixth : 2 * sixth])


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_memory_does_not_grow_over_thousands_of_steps(tmp_path, tiny_config, tiny_teacher, toy_rows, num_workers: int):
    rows = datasets.concatenate_datasets([toy_rows] * 10)
    rows.save_to_disk(str(tmp_path / "rows"))
    rows = datasets.load_from_disk(str(tmp_path / "rows"))  # memory-mapped, like a dataset on disk
    options = {"max_steps": NUM_STEPS, "logging_steps": 10, "distillation_type": "soft", "ema_decay": 0.999}
    options |= {"save_strategy": "steps", "save_steps": 100, "save_total_limit": 2}
    options |= {"eval_strategy": "steps", "eval_steps": 100, "per_device_eval_batch_size": 20}
    options |= {"dataloader_num_workers": num_workers, "dataloader_persistent_workers": num_workers > 0}
    memory = MemoryLog()
    trainer = DistillationTrainer(
        DeiTForImageClassificationWithTeacher(tiny_config),
        make_args(tmp_path, **options),
        teacher=tiny_teacher,
        train_dataset=rows,
        eval_dataset=toy_rows,
        callbacks=[memory],
    )
    trainer.train()
    assert len(list(Path(trainer.args.output_dir).glob("checkpoint-*"))) == 2
    for name, sizes in (("main", memory.main), ("worker", memory.worker)):
        mib = [round(size / 2**20) for size in sizes[:: len(sizes) // 12]]
        print(f"{num_workers} workers, {name}: {mib} MiB, growth {growth(sizes) / 2**20:.1f}")  # noqa: T201
        assert growth(sizes) < ALLOWED_GROWTH, f"{name} process, MiB over the training: {mib}"
