"""The options of a training, checked when they are made: defaults are the paper's (table 9).

Which student, teacher and data a run takes is in run_arguments.py; what a recipe file is, in recipes.py.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from transformers import SchedulerType, TrainingArguments

from .evaluation import FUSIONS, Fusion
from .losses import DistillationType, Reduction
from .optimization import scaled_learning_rate

PAPER_BASE_LEARNING_RATE = 5e-4
PAPER_WARMUP_EPOCHS = 5.0
# timm itself ignores the parts of a policy that it cannot read, such as `mx`
RANDOM_AUGMENT_POLICY = re.compile(r"rand(-(m|n|mmax|inc)\d+|-(p|mstd)\d+(\.\d+)?|-t(weights|3aw?))*")


@dataclass
class DistillationArguments(TrainingArguments):
    """transformers' `TrainingArguments` with the paper's objective, augmentation and schedule.

    Differs from the parent's defaults in: AdamW weight decay 0.05, 300 epochs, no gradient clipping, a learning rate
    that follows from the global batch, and in what this trainer needs (no column is removed, metrics are counted
    batch by batch).

    Raises:
        ValueError: from the constructor, when an option is out of its range or contradicts another.
    """

    distillation_type: DistillationType = field(
        default="none", metadata={"help": "What to learn from the teacher: none, soft or hard (sec. 4)."}
    )
    distillation_weight: float = field(
        default=0.5, metadata={"help": "Weight of the teacher's term in [0, 1]; the class head's is the rest."}
    )
    distillation_temperature: float = field(
        default=3.0, metadata={"help": "Temperature of soft distillation, above 0 (the paper's is 3)."}
    )
    distillation_reduction: Reduction = field(
        default="batchmean",
        metadata={
            "help": "Mean of the soft term: batchmean (the formula) or numel (official code; over classes too)."
        },
    )
    mixup_alpha: float = field(default=0.8, metadata={"help": "Beta parameter of mixup; 0 turns it off."})
    cutmix_alpha: float = field(default=1.0, metadata={"help": "Beta parameter of cutmix; 0 turns it off."})
    mixup_switch_prob: float = field(
        default=0.5, metadata={"help": "Probability of cutmix instead of mixup when both are on."}
    )
    label_smoothing: float = field(default=0.1, metadata={"help": "Smoothing of the true labels, in [0, 1)."})
    random_augment: str = field(
        default="rand-m9-mstd0.5-inc1", metadata={"help": "RandAugment policy in timm's notation, or none."}
    )
    color_jitter: float = field(
        default=0.3, metadata={"help": "Strength of colour jitter; only without random_augment, as in timm."}
    )
    random_erase_prob: float = field(default=0.25, metadata={"help": "Probability of random erasing."})
    crop_min_scale: float = field(
        default=0.08, metadata={"help": "Smallest share of the image's area that a training crop takes, in (0, 1]."}
    )
    horizontal_flip_prob: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})
    repeated_augmentation: int = field(
        default=3, metadata={"help": "Views of an image within an optimizer step; 1 turns repeating off."}
    )
    base_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate per 512 images of the global batch (5e-4 unless learning_rate is given)."},
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Absolute peak learning rate, instead of base_learning_rate."}
    )
    lr_scheduler_type: SchedulerType | str = field(
        default="cosine", metadata={"help": "Schedule; cosine is the paper's, with min_learning_rate at its end."}
    )
    min_learning_rate: float = field(default=1e-5, metadata={"help": "Learning rate at the end; not scaled."})
    warmup_learning_rate: float = field(default=1e-6, metadata={"help": "Learning rate at the start; not scaled."})
    warmup_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of linear warm-up (5 unless warmup_steps is given)."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Decay of matrices; no bias, norm or token decays."})
    num_train_epochs: float = field(default=300.0, metadata={"help": "Epochs; with repeats each sees fewer images."})
    max_grad_norm: float = field(default=0.0, metadata={"help": "Largest norm of the gradient; 0 does not clip."})
    eval_fusion: Fusion = field(
        default="logit_mean",
        metadata={
            "help": "How two heads answer together in evaluation: logit_mean (all published numbers) or softmax_sum "
            "(the text of sec. 4)."
        },
    )
    train_only: str | None = field(
        default=None, metadata={"help": "Regular expression of parameter names to train; all others are frozen."}
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be false: views need their columns."})
    batch_eval_metrics: bool = field(default=True, metadata={"help": "Must be true: metrics are counted by batch."})
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Replace non-finite losses in the log; waits for the device at every step."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start anew in an output_dir that holds a run; its checkpoints are deleted."}
    )

    def __post_init__(self) -> None:
        self._check_ranges()
        self._check_unsupported()
        super().__post_init__()
        if not torch.accelerator.is_available():
            self.dataloader_pin_memory = False  # torch warns of pinned memory without a device
        self._set_learning_rate()
        self._set_warmup()
        self._check_batch()

    @property
    def mixes(self) -> bool:
        """Whether training images are mixed."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    @property
    def global_batch_size(self) -> int:
        """Views of one optimizer step: all processes, all accumulation steps."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps

    def _check_ranges(self) -> None:
        check_choice("distillation_type", self.distillation_type, ("none", "soft", "hard"))
        check_choice("distillation_reduction", self.distillation_reduction, ("batchmean", "numel"))
        check_choice("eval_fusion", self.eval_fusion, tuple(FUSIONS))
        check("distillation_temperature", self.distillation_temperature, lambda v: v > 0, "greater than 0")
        for name in ("distillation_weight", "mixup_switch_prob", "random_erase_prob", "horizontal_flip_prob"):
            check(name, getattr(self, name), lambda v: 0 <= v <= 1, "in [0, 1]")
        for name in ("mixup_alpha", "cutmix_alpha", "color_jitter", "min_learning_rate", "warmup_learning_rate"):
            check(name, getattr(self, name), lambda v: v >= 0, "0 or more")
        for name in ("learning_rate", "base_learning_rate", "warmup_epochs"):
            if getattr(self, name) is not None:
                check(name, getattr(self, name), lambda v: v >= 0, "0 or more")
        check("label_smoothing", self.label_smoothing, lambda v: 0 <= v < 1, "in [0, 1)")
        check("crop_min_scale", self.crop_min_scale, lambda v: 0 < v <= 1, "in (0, 1]")
        check("repeated_augmentation", self.repeated_augmentation, lambda v: v >= 1, "1 or more (1 turns it off)")

    def _check_unsupported(self) -> None:
        if self.label_smoothing_factor:
            raise ValueError(
                f"`label_smoothing_factor` is {self.label_smoothing_factor}, but must be 0: it would smooth a second "
                "time; use `label_smoothing`"
            )
        if self.remove_unused_columns or not self.batch_eval_metrics:
            raise ValueError("`remove_unused_columns` must be false and `batch_eval_metrics` true; leave both out")
        if self.train_sampling_strategy != "random":
            raise ValueError(
                f"`train_sampling_strategy` is {self.train_sampling_strategy!r}, but must be 'random': the order of "
                "views is a function of the seed and the epoch"
            )
        if self.random_augment != "none" and not RANDOM_AUGMENT_POLICY.fullmatch(self.random_augment):
            raise ValueError(
                f"`random_augment` is {self.random_augment!r}, which is no RandAugment policy of timm; use one like "
                "'rand-m9-mstd0.5-inc1', or 'none'"
            )

    def _set_learning_rate(self) -> None:
        if self.base_learning_rate is None and self.learning_rate is None:
            self.base_learning_rate = PAPER_BASE_LEARNING_RATE
        if self.base_learning_rate is None:
            return
        scaled = scaled_learning_rate(self.base_learning_rate, self.global_batch_size)
        if self.learning_rate not in (None, scaled):
            raise ValueError(
                f"`learning_rate` is {self.learning_rate} but `base_learning_rate` {self.base_learning_rate} gives "
                f"{scaled} for a global batch of {self.global_batch_size}; give only one of them"
            )
        self.learning_rate = scaled

    def _set_warmup(self) -> None:
        if self.warmup_epochs is None:
            self.warmup_epochs = 0.0 if self.warmup_steps else PAPER_WARMUP_EPOCHS
        elif self.warmup_epochs and self.warmup_steps:
            raise ValueError(
                f"`warmup_epochs` is {self.warmup_epochs} and `warmup_steps` {self.warmup_steps}; give only one"
            )

    def _check_batch(self) -> None:
        if self.mixes and self.per_device_train_batch_size % 2:
            raise ValueError(
                f"`per_device_train_batch_size` is {self.per_device_train_batch_size}, but must be even, as mixup and "
                "cutmix mix pairs; change it, or set `mixup_alpha` and `cutmix_alpha` to 0"
            )


def check(name: str, value: float, allowed: Callable[[float], bool], description: str) -> None:
    if not allowed(value):
        raise ValueError(f"`{name}` is {value}, but must be {description}")


def check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` is {value!r}, but must be one of {', '.join(choices)}")
