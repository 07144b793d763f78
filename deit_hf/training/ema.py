"""Exponential moving average (EMA) of the student's weights: updated, evaluated, saved and resumed.

The averaging itself is timm's `ModelEmaV3`. optimizing_trainer.py saves the averages, view_trainer.py evaluates them.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import broadcast
from timm.utils import ModelEmaV3
from transformers import PreTrainedModel, Trainer, TrainerCallback

from ..reliability.step_outcome import StepOutcome

EMA_FOLDER = "ema"
STATE_FILE = "averaging.json"  # what a resume needs in addition to the weights


class AveragedWeights(TrainerCallback):
    """A copy of the student with averaged weights: average <- d * average + (1 - d) * weights, after each step.

    A skipped step (float16 overflow, numerical_faults.py) does not count. Parameters and float buffers (batch
    statistics) are averaged in float32. Integer buffers are copied, as in the official code, which uses timm.

    With warm-up, the update after n others has d = min(decay, n / (n + 9)). The first update replaces the initial
    weights. The average then covers about the last tenth of the training, until n / (n + 9) reaches `decay` (0.99996
    after 225 k steps).

    Source: official main.py:52, 337, 441, which never evaluates the averages. Warm-up: (1 + t) / (10 + t) of
    TensorFlow's `ExponentialMovingAverage`, t = n - 1.
    Differs: the official average has no warm-up and starts at the initial weights. With decay 0.99996, their share is
    still 82 % after 5 k steps. `warmup=False` does the same as the official code (pinned by
    test_without_warm_up_the_average_starts_at_the_initial_weights).

    Attributes:
        num_updates: number of updates since the training began.
        resume_from: checkpoint from which the next training loads the averages; None to start with the student.
    """

    def __init__(self, decay: float, *, warmup: bool, outcome: StepOutcome):
        self.decay, self.warmup, self.outcome = decay, warmup, outcome
        self.num_updates = 0
        self._averages: ModelEmaV3 | None = None
        self.resume_from: Path | None = None

    @property
    def model(self) -> PreTrainedModel | None:
        """The model with averaged weights, float32, in eval mode, on the student's device; None before a training."""
        return None if self._averages is None else self._averages.module

    def start(self, model: PreTrainedModel) -> None:
        """Sets the averages to a copy of the model's weights."""
        in_float32 = all(t.dtype == torch.float32 for t in model.state_dict().values() if t.is_floating_point())
        self._averages = ModelEmaV3(
            model,
            decay=self.decay,
            use_warmup=self.warmup,
            warmup_gamma=9.0,
            warmup_power=1.0,
            dtype=torch.float32,
            foreach=in_float32,  # with mixed dtypes timm scales and adds, and 0.99996 + 0.00004 is not 1 in float32
        ).requires_grad_(False)
        self.num_updates = 0

    def forget(self) -> None:
        """Drops the averages, because the student was replaced."""
        self._averages, self.num_updates = None, 0

    def update(self, model: PreTrainedModel) -> None:
        """Updates the averages with the model's weights."""
        assert self._averages is not None
        self.num_updates += 1
        self._averages.update(model, step=self.num_updates if self.warmup else None)

    def save(self, directory: str | Path, processor: Any) -> None:
        """Writes the averages to `directory`/ema as a float32 model of plain transformers, unless there are none."""
        if self.model is None:
            return
        folder = Path(directory) / EMA_FOLDER
        self.model.save_pretrained(folder)
        processor.save_pretrained(folder)
        state = {"ema_decay": self.decay, "ema_warmup": self.warmup, "num_updates": self.num_updates}
        (folder / STATE_FILE).write_text(json.dumps(state, indent=2) + "\n", encoding="utf-8")

    def load(self, checkpoint: str | Path) -> None:
        """Loads the averages of a checkpoint, bit for bit.

        Raises:
            FileNotFoundError: the checkpoint has no averages.
            ValueError: some of the model's weights are missing in them.
        """
        assert self.model is not None
        folder = Path(checkpoint) / EMA_FOLDER
        choice = (
            "resume from a checkpoint that has them, continue without averages (`ema_decay` 0), or start a new run "
            f"from these weights (`model_name_or_path` {checkpoint})"
        )
        if not (folder / STATE_FILE).is_file():
            raise FileNotFoundError(f"`{folder}` has no averaged weights, but `ema_decay` is {self.decay}; {choice}")
        stored, info = type(self.model).from_pretrained(folder, dtype=torch.float32, output_loading_info=True)
        if info["missing_keys"]:
            raise ValueError(f"`{folder}` lacks {', '.join(sorted(info['missing_keys']))}; {choice}")
        self.model.load_state_dict(stored.state_dict())
        self.num_updates = json.loads((folder / STATE_FILE).read_text(encoding="utf-8"))["num_updates"]

    # ---- callback events ----

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.start(model)  # not earlier: only now all processes have the same weights, and `forward` has autocast
        checkpoint, self.resume_from = self.resume_from, None
        if checkpoint is not None:
            self.load(checkpoint)

    def on_step_end(
        self, args: Any, state: Any, control: Any, model: Any = None, optimizer: Any = None, **kwargs: Any
    ) -> None:
        if not (optimizer.step_was_skipped or self.outcome.is_skipped):
            self.update(model)


def averages_for(
    current: AveragedWeights | None, decay: float, *, warmup: bool, outcome: StepOutcome
) -> AveragedWeights | None:
    """Returns the current averages if they fit the options, else new ones, or None without `ema_decay`."""
    if current is not None and (current.decay, current.warmup) == (decay, warmup):
        return current
    return AveragedWeights(decay, warmup=warmup, outcome=outcome) if decay else None


def check_not_sharded(ema_decay: float, *, is_sharded: bool) -> None:
    """Raises ValueError if the weights to average are sharded, as under FSDP and DeepSpeed ZeRO-3."""
    if ema_decay and is_sharded:
        raise ValueError(
            f"`ema_decay` is {ema_decay}, but under FSDP and DeepSpeed ZeRO-3 no process has the whole weights to "
            "average; set `ema_decay` to 0, or train with DDP"
        )


def evaluate_averages(
    trainer: Trainer,
    averages: AveragedWeights | None,
    dataset: Any,
    metric_key_prefix: str,
    ignore_keys: list[str] | None = None,
) -> dict[str, float]:
    """Runs the trainer's evaluation loop on the averaged weights; returns no metrics if there are no averages.

    The student, its training mode and the random state do not change, even if the evaluation fails.

    Args:
        trainer: trainer of the student.
        averages: averages of the student's weights, or None.
        dataset: as for `Trainer.evaluate`, but not a dict.
        metric_key_prefix: prefix of the student's metrics; with `eval` the averages have `eval_ema_top1` and so on.
        ignore_keys: as for `Trainer.evaluate`.
    """
    if averages is None or averages.model is None:
        return {}
    broadcast(list(averages.model.buffers()))  # batch statistics differ between processes; only the first one saves
    prefix = _averages_prefix(metric_key_prefix)
    student = trainer.model
    half_precision = trainer.args.fp16_full_eval or trainer.args.bf16_full_eval
    try:
        # a copy, because the loop casts the model in place
        trainer.model = copy.deepcopy(averages.model) if half_precision else averages.model
        loader = trainer.get_eval_dataloader(dataset)
        output = trainer.evaluation_loop(loader, "Evaluation", ignore_keys=ignore_keys, metric_key_prefix=prefix)
    finally:
        trainer.model = student
    return {name: value for name, value in output.metrics.items() if not name.endswith("_model_preparation_time")}


def _averages_prefix(prefix: str) -> str:
    """Returns the metric prefix of the averages: `eval_ema` for `eval`, `eval_ema_flowers` for `eval_flowers`."""
    kind, separator, dataset = prefix.partition("_")
    return f"{kind}_ema{separator}{dataset}"
