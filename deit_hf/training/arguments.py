"""The options of a training, checked when they are made: defaults are the paper's (table 9).

Options of student, teacher and data are in model/arguments.py and data/sources/arguments.py.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import SchedulerType, TrainingArguments

from ..argument_checks import check, check_choice, check_kinds
from ..data.bad_images import OnBadImage
from ..data.transforms import PAPER_CROP_MIN_SCALE, CropMode, check_view_options
from ..distillation.losses import ClassWeighting, DistillationType, LabelLoss, Reduction
from ..evaluation.fusion import FUSIONS, Fusion
from ..reliability.launch_checks import check_accelerator_config, check_launch, check_ranks
from .changeable_options import check_allowed_changes
from .derived_options import forget_derived, settle_learning_rate
from .evaluation_times import forget_followed, left_out, settle_evaluation
from .global_batch import check_pairs
from .hub_token import deep_copy, shallow_copy, without_token
from .option_values import check_contradictions, check_option_values
from .refused_arguments import check_supported
from .schedule_options import PAPER_WARMUP_LEARNING_RATE, settle_schedule

LearningRateStepping = Literal["step", "official"]
StudentMode = Literal["train", "eval"]


@dataclass(repr=False)  # transformers' own shows no token
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
    label_loss: LabelLoss = field(
        default="cross_entropy",
        metadata={
            "help": "Loss of the labels: cross_entropy, or DeiT III's binary_cross_entropy, which needs "
            "label_smoothing 0."
        },
    )
    class_weighting: ClassWeighting = field(
        default="none",
        metadata={
            "help": "Class weights of the label loss: none, or balanced: images / (classes x images of class). They "
            "weigh each share in a target, also mixed and smoothed ones (cross_entropy), or a class's presence "
            "(binary_cross_entropy); the teacher's term has none."
        },
    )
    evaluate_teacher: bool = field(
        default=True,
        metadata={
            "help": "Measure the teacher on the evaluation split before the first step, for the effective recipe."
        },
    )
    mixup_alpha: float = field(default=0.8, metadata={"help": "Beta parameter of mixup; 0 turns it off."})
    cutmix_alpha: float = field(default=1.0, metadata={"help": "Beta parameter of cutmix; 0 turns it off."})
    mixup_switch_prob: float = field(
        default=0.5, metadata={"help": "Probability of cutmix instead of mixup when both are on."}
    )
    label_smoothing: float = field(default=0.1, metadata={"help": "Smoothing of the true labels, in [0, 1)."})
    random_augment: str = field(
        default="rand-m9-mstd0.5-inc1",
        metadata={"help": "RandAugment policy in timm's notation, or 3-augment (DeiT III's), or none."},
    )
    color_jitter: float = field(
        default=0.3,
        metadata={"help": "Strength of colour jitter; as in timm only with 3-augment, a policy with -t3a, or none."},
    )
    random_erase_prob: float = field(default=0.25, metadata={"help": "Probability of random erasing."})
    crop_mode: CropMode = field(
        default="random_resized",
        metadata={"help": "Training crop: random_resized, or DeiT III's simple, which keeps nearly all of the image."},
    )
    crop_min_scale: float = field(
        default=PAPER_CROP_MIN_SCALE,
        metadata={"help": "Smallest share of the image's area that a random_resized crop takes, in (0, 1]."},
    )
    horizontal_flip_prob: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip."})
    repeated_augmentation: int = field(
        default=3, metadata={"help": "Views of an image in an optimizer step (or two, at its border); 1 is off."}
    )
    min_steps_per_epoch: int = field(
        default=0,
        metadata={"help": "Halve the global batch until an epoch has so many optimizer steps; 0 leaves the batch."},
    )
    base_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate per 512 images of the global batch (5e-4 unless learning_rate is given)."},
    )
    learning_rate: float | None = field(
        default=None, metadata={"help": "Absolute peak learning rate, instead of base_learning_rate."}
    )
    lr_scheduler_type: SchedulerType | str = field(
        default="cosine", metadata={"help": "Schedule after the warm-up, which all have; cosine is the paper's."}
    )
    learning_rate_stepping: LearningRateStepping = field(
        default="step",
        metadata={
            "help": "When the cosine moves: every step, or as in the official code once an epoch, one epoch late."
        },
    )
    min_learning_rate: float | None = field(
        default=None, metadata={"help": "Learning rate at the end (1e-5 if the schedule has an end); not scaled."}
    )
    warmup_learning_rate: float = field(
        default=PAPER_WARMUP_LEARNING_RATE, metadata={"help": "Learning rate at the start; not scaled."}
    )
    warmup_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of linear warm-up (5 unless warmup_steps is given)."}
    )
    weight_decay: float = field(default=0.05, metadata={"help": "Decay of matrices; no bias, norm or token decays."})
    layer_decay: float = field(
        default=1.0,
        metadata={"help": "A layer's learning rate over that of the layer above it, in (0, 1]; only DeiT and ViT."},
    )
    timm_optimizer: str | None = field(
        default=None, metadata={"help": "An optimizer of timm instead of optim, such as sgd (Nesterov, 0.9) or lamb."}
    )
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
        default=None,
        metadata={
            "help": "Regular expression of parameter names to train; all others are frozen. classifier trains the "
            "heads, attention|classifier the attention layers too (arXiv:2203.09795)."
        },
    )
    student_mode: StudentMode = field(
        default="train",
        metadata={
            "help": "Mode of the student while it is trained: eval is without stochastic depth and dropout, and with "
            "fixed batch statistics, as DeiT was fine-tuned at 384 pixels."
        },
    )
    on_bad_image: OnBadImage = field(
        default="error",
        metadata={
            "help": "What a training does at an image that cannot be decoded: error, or skip: show the next one that "
            "can, and list it in bad_images.jsonl. In evaluation it is always an error."
        },
    )
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "Decay of averaged weights in [0, 1), official 0.99996; 0 keeps none."},
    )
    ema_warmup: bool = field(
        default=True,
        metadata={"help": "Update n + 1 of the averages decays by at most n / (n + 9); off, they keep early weights."},
    )
    num_train_samples: int | None = field(
        default=None,
        metadata={"help": "Rows in an epoch of a stream, for one that does not tell (tars), or to use fewer."},
    )
    num_streams: int = field(
        default=1,
        metadata={
            "help": "Streams that the shards are dealt to; each step takes equally many views of each. A process "
            "reads only those that it needs: its part, if there are processes x accumulation steps of them."
        },
    )
    shuffle_buffer_size: int = field(
        default=1000, metadata={"help": "Undecoded rows that each stream is shuffled in, in memory; 1 does not."}
    )
    max_bad_steps: int = field(
        default=0,
        metadata={
            "help": "Steps with a non-finite loss or gradient to skip before the training stops; above 0 it waits for "
            "the device at every step."
        },
    )
    remove_unused_columns: bool = field(default=False, metadata={"help": "Must be false: views need their columns."})
    batch_eval_metrics: bool = field(default=True, metadata={"help": "Must be true: metrics are counted by batch."})
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "A resumed run stops early where it would have without the interruption."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Must be false: a loss that is not finite never enters the log."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Search for parameters without gradient at each step; no model here has any."},
    )
    hub_strategy: str = field(
        default="end", metadata={"help": "Only `end`: with `push_to_hub` the finished run is pushed, in one commit."}
    )
    overwrite_output_dir: bool = field(
        default=False, metadata={"help": "Start anew in an output_dir that holds a run; its checkpoints are deleted."}
    )
    allow_changes: list[str] = field(
        default_factory=list, metadata={"help": "Options that a resumed run may change, or data, classes, teacher."}
    )

    def __post_init__(self) -> None:
        forget_derived(self)
        self._check()
        if not torch.accelerator.is_available():
            self.use_cpu = True  # processes without a device do not join each other unless told so
        check_ranks()
        names = left_out(self)
        super().__post_init__()
        self._followed = {name: getattr(self, name) for name in names}
        self.fitted_batch: tuple[Any, Any] = (None, None)  # as it was asked for, and as `min_steps_per_epoch` made it
        check_launch(
            num_processes=self.world_size,
            num_devices=self.n_gpu,
            distributed_type=self.distributed_state.distributed_type,
            asks_for_fsdp=bool(self.fsdp),
        )
        check_accelerator_config(self.accelerator_config)
        self._set_precision()
        self._derive()

    def settle(self) -> None:
        """Checks changed options as the constructor does, and derives anew what follows; before each training."""
        forget_derived(self)
        forget_followed(self, self._followed)
        self._check()
        self._followed = settle_evaluation(self)
        self._derive()

    def _check(self) -> None:
        check_kinds(self)
        self._check_ranges()
        check_supported(self)
        check_option_values(self)
        check_allowed_changes(self.allow_changes, type(self))
        check_contradictions(self)
        check_view_options(self.random_augment, self.crop_mode, self.crop_min_scale)

    def _derive(self) -> None:
        settle_learning_rate(self)
        settle_schedule(self)
        check_pairs(self.per_device_train_batch_size, mixes=self.mixes)

    __getstate__, __copy__, __deepcopy__ = without_token, shallow_copy, deep_copy

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
        check_choice("learning_rate_stepping", self.learning_rate_stepping, ("step", "official"))
        check_choice("student_mode", self.student_mode, ("train", "eval"))
        check_choice("label_loss", self.label_loss, ("cross_entropy", "binary_cross_entropy"))
        check_choice("class_weighting", self.class_weighting, ("none", "balanced"))
        check_choice("crop_mode", self.crop_mode, ("random_resized", "simple"))
        check_choice("on_bad_image", self.on_bad_image, ("error", "skip"))
        check_choice("eval_fusion", self.eval_fusion, tuple(FUSIONS))
        check("distillation_temperature", self.distillation_temperature, lambda v: v > 0, "greater than 0")
        for name in ("distillation_weight", "mixup_switch_prob", "random_erase_prob", "horizontal_flip_prob"):
            check(name, getattr(self, name), lambda v: 0 <= v <= 1, "in [0, 1]")
        for name in ("mixup_alpha", "cutmix_alpha", "color_jitter", "warmup_learning_rate"):
            check(name, getattr(self, name), lambda v: v >= 0, "0 or more")
        for name in ("weight_decay", "max_grad_norm", "num_train_epochs"):
            check(name, getattr(self, name), lambda v: v >= 0, "0 or more")
        for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
            check(name, getattr(self, name), lambda v: v >= 1, "1 or more")
        for name in ("adam_beta1", "adam_beta2"):
            check(name, getattr(self, name), lambda v: 0 <= v < 1, "in [0, 1)")
        for name in ("learning_rate", "base_learning_rate", "min_learning_rate", "warmup_epochs"):
            if getattr(self, name) is not None:
                check(name, getattr(self, name), lambda v: v >= 0, "0 or more")
        check("layer_decay", self.layer_decay, lambda v: 0 < v <= 1, "in (0, 1] (1 turns it off)")
        check("label_smoothing", self.label_smoothing, lambda v: 0 <= v < 1, "in [0, 1)")
        check("ema_decay", self.ema_decay, lambda v: 0 <= v < 1, "in [0, 1) (0 keeps no averages, official: 0.99996)")
        check("crop_min_scale", self.crop_min_scale, lambda v: 0 < v <= 1, "in (0, 1]")
        check("max_bad_steps", self.max_bad_steps, lambda v: v >= 0, "0 or more (0 stops at the first one)")
        check("min_steps_per_epoch", self.min_steps_per_epoch, lambda v: v >= 0, "0 or more (0 leaves the batch)")
        check("repeated_augmentation", self.repeated_augmentation, lambda v: v >= 1, "1 or more (1 turns it off)")
        for name in ("num_streams", "shuffle_buffer_size"):
            check(name, getattr(self, name), lambda v: v >= 1, "1 or more")
        if self.num_train_samples is not None:
            check("num_train_samples", self.num_train_samples, lambda v: v >= 1, "1 or more")

    def _set_precision(self) -> None:
        """Without a flag, the precision of Accelerate's configuration is in force; the flags then say so, too."""
        if self.mixed_precision == "fp16" and self.device.type == "cpu":
            raise ValueError("`fp16` is true, but needs a GPU and this run is on CPUs; use `bf16`, or leave both out")
        self.fp16, self.bf16 = self.mixed_precision == "fp16", self.mixed_precision == "bf16"
