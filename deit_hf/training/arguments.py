"""The options of a training, checked when they are created; the defaults are the paper's (table 9).

The options of the student, the teacher and the data are in model/arguments.py and data/sources/arguments.py.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from transformers import SchedulerType, TrainingArguments

from ..argument_checks import check_kinds
from ..data.bad_images import OnBadImage
from ..data.transforms import PAPER_CROP_MIN_SCALE, CropMode, check_view_options
from ..distillation.losses import ClassWeighting, DistillationType, LabelLoss, Reduction
from ..evaluation.fusion import Fusion
from ..reliability.launch_checks import check_accelerator_config, check_launch, check_ranks
from .changeable_options import check_allowed_changes
from .derived_options import copy_asynchronously, forget_derived, settle_learning_rate
from .evaluation_times import forget_followed, left_out, settle_evaluation
from .global_batch import check_pairs
from .hub_token import deep_copy, shallow_copy, without_token
from .option_ranges import check_ranges
from .option_values import check_contradictions, check_option_values
from .refused_arguments import check_supported
from .schedule_options import PAPER_WARMUP_LEARNING_RATE, settle_schedule

LearningRateStepping = Literal["step", "official"]
StudentMode = Literal["train", "eval"]


@dataclass(repr=False)  # keeps that of `TrainingArguments`, which hides tokens
class DistillationArguments(TrainingArguments):
    """transformers' `TrainingArguments` with the paper's objective, augmentation and schedule.

    Defaults that differ from `TrainingArguments`: weight decay 0.05, 300 epochs, no gradient clipping, a learning
    rate derived from the global batch, and what this trainer needs (no column is removed, metrics are computed batch
    by batch).

    Raises:
        TypeError: from the constructor, if a value has the wrong type.
        ValueError: from the constructor, if an option is out of range or contradicts another.
    """

    distillation_type: DistillationType = field(
        default="none", metadata={"help": "How to learn from the teacher: none, soft or hard distillation (sec. 4)."}
    )
    distillation_weight: float = field(
        default=0.5,
        metadata={"help": "Weight of the distillation loss, in [0, 1]; the label loss has weight 1 minus this."},
    )
    distillation_temperature: float = field(
        default=3.0, metadata={"help": "Temperature of soft distillation, greater than 0."}
    )
    distillation_reduction: Reduction = field(
        default="batchmean",
        metadata={
            "help": "Mean of the soft distillation loss: batchmean (over the batch, as in the formula) or numel (over "
            "batch and classes, as in the official code)."
        },
    )
    label_loss: LabelLoss = field(
        default="cross_entropy",
        metadata={"help": "Label loss: cross_entropy, or DeiT III's binary_cross_entropy (needs label_smoothing 0)."},
    )
    class_weighting: ClassWeighting = field(
        default="none",
        metadata={
            "help": "Class weights of the label loss: none, or balanced, which is images / (classes x images of the "
            "class). With cross_entropy, they apply to all shares in a target (also from mixing and smoothing); with "
            "binary_cross_entropy, to the classes that are present. The distillation loss is not weighted."
        },
    )
    evaluate_teacher: bool = field(
        default=True,
        metadata={
            "help": "Measure the teacher before the first step, for the run summary: on the evaluation split, and on "
            "about 512 training views, without and with mixing."
        },
    )
    teacher_cache: str | None = field(
        default=None,
        metadata={
            "help": "Directory, or dataset on the Hub, with the stored answers of a teacher, which replace it (see "
            "deit-hf cache-teacher)."
        },
    )
    teacher_cache_epochs: int | None = field(
        default=None,
        metadata={"help": "Repeat the views of this many epochs, so that only they need stored answers."},
    )
    mixup_alpha: float = field(
        default=0.8, metadata={"help": "Alpha of mixup's Beta distribution; 0 turns mixup off."}
    )
    cutmix_alpha: float = field(
        default=1.0, metadata={"help": "Alpha of cutmix's Beta distribution; 0 turns cutmix off."}
    )
    mixup_switch_prob: float = field(
        default=0.5, metadata={"help": "Probability of cutmix instead of mixup if both are on, in [0, 1]."}
    )
    label_smoothing: float = field(default=0.1, metadata={"help": "Label smoothing, in [0, 1); 0 turns it off."})
    random_augment: str = field(
        default="rand-m9-mstd0.5-inc1",
        metadata={"help": "RandAugment policy in timm's notation, 3-augment (DeiT III's), or none."},
    )
    color_jitter: float = field(
        default=0.3,
        metadata={
            "help": "Strength of colour jitter; 0 turns it off. As in timm, it is only used if random_augment is "
            "3-augment, none, or a policy with -t3a."
        },
    )
    random_erase_prob: float = field(default=0.25, metadata={"help": "Probability of random erasing, in [0, 1]."})
    crop_mode: CropMode = field(
        default="random_resized",
        metadata={"help": "Training crop: random_resized, or DeiT III's simple, which keeps nearly all of the image."},
    )
    crop_min_scale: float = field(
        default=PAPER_CROP_MIN_SCALE,
        metadata={"help": "Smallest fraction of the image area that a random_resized crop keeps, in (0, 1]."},
    )
    horizontal_flip_prob: float = field(default=0.5, metadata={"help": "Probability of a horizontal flip, in [0, 1]."})
    repeated_augmentation: int = field(
        default=3,
        metadata={"help": "Number of views of each image, usually in the same optimizer step; 1 turns it off."},
    )
    min_steps_per_epoch: int = field(
        default=0,
        metadata={"help": "Halve the global batch until an epoch has this many optimizer steps; 0 turns it off."},
    )
    base_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Peak learning rate per 512 images of the global batch (5e-4 unless learning_rate is set)."},
    )
    learning_rate: float | None = field(
        default=None,
        metadata={"help": "Absolute peak learning rate. Default: base_learning_rate x global batch / 512."},
    )
    lr_scheduler_type: SchedulerType | str = field(
        default="cosine", metadata={"help": "Schedule after the warm-up; the paper uses cosine."}
    )
    learning_rate_stepping: LearningRateStepping = field(
        default="step",
        metadata={
            "help": "When the cosine changes: step (every step), or official (once per epoch and one epoch late, as "
            "in the official code)."
        },
    )
    min_learning_rate: float | None = field(
        default=None,
        metadata={"help": "Learning rate at the end, not scaled with the batch (1e-5 if the schedule has an end)."},
    )
    warmup_learning_rate: float = field(
        default=PAPER_WARMUP_LEARNING_RATE,
        metadata={"help": "Learning rate at the start of the warm-up, not scaled with the batch."},
    )
    warmup_epochs: float | None = field(
        default=None, metadata={"help": "Epochs of linear warm-up. Default: 5, or 0 if warmup_steps is set."}
    )
    weight_decay: float = field(
        default=0.05, metadata={"help": "Weight decay of weight matrices; biases, norms and tokens do not decay."}
    )
    layer_decay: float = field(
        default=1.0,
        metadata={
            "help": "Learning rate of a layer relative to the layer above it, in (0, 1]; 1 turns it off. Only for "
            "DeiT and ViT."
        },
    )
    timm_optimizer: str | None = field(
        default=None,
        metadata={"help": "Optimizer of timm that replaces optim, such as sgd (Nesterov, momentum 0.9) or lamb."},
    )
    num_train_epochs: float = field(
        default=300.0,
        metadata={"help": "Number of epochs; with repeated_augmentation N, an epoch shows about 1/N of the images."},
    )
    max_grad_norm: float = field(
        default=0.0, metadata={"help": "Maximum norm of the gradient; larger ones are clipped. 0 turns clipping off."}
    )
    fusion: Fusion = field(
        default="logit_mean",
        metadata={
            "help": "How the outputs of two heads are combined in evaluation: logit_mean (all published numbers) or "
            "softmax_sum (text of the paper, sec. 4)."
        },
    )
    train_only: str | None = field(
        default=None,
        metadata={
            "help": "Regular expression for the names of the parameters to train; all others are frozen. head trains "
            "the classifiers of any model, attention|classifier in a DeiT also the attention layers "
            "(arXiv:2203.09795). Default: train all."
        },
    )
    student_mode: StudentMode = field(
        default="train",
        metadata={
            "help": "Mode of the student during training: train, or eval, which turns off stochastic depth and "
            "dropout and fixes batch statistics, as in DeiT's fine-tuning at 384 pixels."
        },
    )
    on_bad_image: OnBadImage = field(
        default="error",
        metadata={
            "help": "What to do if a training image cannot be decoded: error, or skip, which uses the next good image "
            "and lists the bad one in bad_images.jsonl. An evaluation always raises an error."
        },
    )
    ema_decay: float = field(
        default=0.0,
        metadata={"help": "Decay of the averaged weights (EMA), in [0, 1); 0 turns them off, 0.99996 is official."},
    )
    ema_warmup: bool = field(
        default=True,
        metadata={
            "help": "Limit the decay in update n + 1 of the averaged weights to n / (n + 9). If false, they keep the "
            "initial weights for a long time."
        },
    )
    num_train_samples: int | None = field(
        default=None,
        metadata={"help": "Rows per epoch of a stream: required if unknown (tars); a smaller number uses fewer rows."},
    )
    num_streams: int = field(
        default=1,
        metadata={
            "help": "Number of shuffled streams that the shards are divided into; a step takes equally many views of "
            "each. If it equals processes x accumulation steps, each process reads only its own shards."
        },
    )
    shuffle_buffer_size: int = field(
        default=1000,
        metadata={"help": "Undecoded rows in the shuffle buffer of each stream, in memory; 1 does not shuffle."},
    )
    max_bad_steps: int = field(
        default=0,
        metadata={
            "help": "Number of steps with a non-finite loss or gradient to skip before the training stops; above 0, "
            "every step waits for the device."
        },
    )
    remove_unused_columns: bool = field(
        default=False, metadata={"help": "Must be false: the training and evaluation views need the columns."}
    )
    batch_eval_metrics: bool = field(
        default=True, metadata={"help": "Must be true: metrics are computed batch by batch."}
    )
    restore_callback_states_from_checkpoint: bool = field(
        default=True, metadata={"help": "Restore callbacks on resume, so that early stopping counts all evaluations."}
    )
    logging_nan_inf_filter: bool = field(
        default=False, metadata={"help": "Must be false: a non-finite loss is never logged."}
    )
    ddp_find_unused_parameters: bool | None = field(
        default=False,
        metadata={"help": "Let DDP search for parameters without gradient at each step; no model here has any."},
    )
    hub_strategy: str = field(
        default="end", metadata={"help": "Must be end: with push_to_hub, the finished run is pushed in one commit."}
    )
    training_views: bool | None = field(
        default=None,
        metadata={
            "help": "Draw the first training views with their targets to training_views.png. Default: true in the "
            "trainings of the commands, false in Python."
        },
    )
    verbose: bool = field(
        default=False, metadata={"help": "Also print what transformers prints, and show all warnings."}
    )
    overwrite_output_dir: bool = field(
        default=False,
        metadata={"help": "Start again at step 0 and delete the checkpoints of an earlier run in output_dir."},
    )
    allow_changes: list[str] = field(
        default_factory=list,
        metadata={"help": "Options that may change when a run is resumed; also data, classes, teacher or student."},
    )

    def __post_init__(self) -> None:
        forget_derived(self)
        self._check()
        if not torch.accelerator.is_available():
            self.use_cpu = True  # without a device, several processes only find each other if this is set
        check_ranks()
        copy_asynchronously(self)
        names = left_out(self)
        super().__post_init__()
        self._followed = {name: getattr(self, name) for name in names}
        self.fitted_batch: tuple[Any, Any] = (None, None)  # as given, and as `min_steps_per_epoch` reduced it
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
        """Checks and derives again before each training, because options may have changed."""
        forget_derived(self)
        forget_followed(self, self._followed)
        self._check()
        self._followed = settle_evaluation(self)
        self._derive()

    def _check(self) -> None:
        check_kinds(self)
        check_ranges(self)
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
        """Whether mixup or cutmix is on."""
        return self.mixup_alpha > 0 or self.cutmix_alpha > 0

    @property
    def global_batch_size(self) -> int:
        """Views of one optimizer step, over all processes and accumulation steps."""
        return self.train_batch_size * self.world_size * self.gradient_accumulation_steps

    def _set_precision(self) -> None:
        """Sets `fp16` and `bf16` to the effective precision; without a flag, Accelerate's configuration decides it."""
        if self.mixed_precision == "fp16" and self.device.type == "cpu":
            raise ValueError("`fp16` is true, but needs a GPU and this run is on CPUs; use `bf16`, or leave both out")
        self.fp16, self.bf16 = self.mixed_precision == "fp16", self.mixed_precision == "bf16"
