"""The effective recipe: all settings of a run, including those that follow from options, data and machine.

Logged once when a training starts, and written as comments to recipe.yaml. The options are in arguments.py.
"""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch.optim import Optimizer
from transformers import PreTrainedModel, TrainerCallback

from ..data.sampling import ViewSampler
from ..distillation.teacher import Teacher
from ..evaluation.teacher_fit import TeacherFit
from ..model.image_processing_deit import LARGEST_UNCROPPED_SIZE, crop_in_words, crop_size
from .answer_store import StoredAnswers
from .arguments import DistillationArguments
from .class_weights import warn_of_imbalance
from .loss_log import LossLog
from .recipe_file import as_block
from .schedule import current_learning_rate, learning_rates, peak_learning_rate
from .small_runs import warn_of_small_run
from .teacher_warning import warn_of_misfit

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Run:
    """Facts of a run that are known when a training starts.

    Attributes:
        args: the options.
        student: model with or without a distillation head.
        processor: image processor of the evaluation view.
        sampler: sampler of the training views.
        optimizer: optimizer of the student.
        schedule: schedule of its learning rate.
        num_steps: optimizer steps of the whole training.
        num_warmup_steps: optimizer steps of the warm-up; None for a schedule that was given to the trainer.
        precision: `no`, `fp16` or `bf16`.
        class_weights: class weights of the label loss, in words; empty if there are none.
        teacher: the teacher, or its stored answers, or None.
        teacher_fit: its accuracy on the evaluation split and on training views; None if it was not measured.
        teacher_split: name of that evaluation split, in words.
        given_optimizer: whether the optimizer or its class was given to the trainer.
        own_objective: name of a subclass that overrides `compute_loss`, or None.
        class_counts: number of training images of each class; None if unknown.
        changes: changed options of a resumed run, by step (same_run.py).
    """

    args: DistillationArguments
    student: PreTrainedModel
    processor: Any
    sampler: ViewSampler
    optimizer: Optimizer
    schedule: Any
    num_steps: int
    num_warmup_steps: int | None
    precision: str
    class_weights: str = ""
    teacher: Teacher | StoredAnswers | None = None
    teacher_fit: TeacherFit | None = None
    teacher_split: str = "the evaluation split"
    given_optimizer: bool = False
    own_objective: str | None = None
    class_counts: Sequence[int] | None = None
    changes: Mapping[str, str] = field(default_factory=dict)

    @property
    def rates(self) -> list[float] | None:
        """Learning rate (num_steps + 1,) at each step and after the last; None if it is not a function of the step."""
        return learning_rates(self.schedule, self.num_steps)


def effective_recipe(run: Run) -> dict[str, str]:
    """Returns the effective settings, one line per topic, in the paper's order."""
    return {
        "student": _student(run),
        "objective": _objective(run),
        "teacher": _teacher(run),
        **({} if run.teacher_fit is None else {"teacher on views": run.teacher_fit.in_words()}),
        "global batch": _global_batch(run.args),
        "images": _images(run),
        "steps": f"{run.num_steps} in {run.args.num_train_epochs:g} {_epochs(run)} of {steps_in_epoch(run.sampler)}"
        if run.args.max_steps <= 0
        else f"{run.num_steps}, set by `max_steps`; an epoch has {steps_in_epoch(run.sampler)}",
        "learning rate": _learning_rate(run),
        "warm-up": _warmup(run),
        "optimizer": _optimizer(run),
        "views": _views(run),
        "mixing": _mixing(run.args),
        "averaged weights": _averages(run.args),
        "precision": {"no": "float32"}.get(run.precision, run.precision),
        "evaluation": crop_in_words(run.processor.to_dict())
        + (f"; fusion {run.args.fusion}" if hasattr(run.student, "distillation_classifier") else ""),
        "seed": f"{run.args.seed}" + (f", views {run.args.data_seed}" if run.args.data_seed is not None else ""),
    }


def _epochs(run: Run) -> str:
    return "epoch" if run.args.num_train_epochs == 1 else "epochs"


def steps_in_epoch(sampler: ViewSampler) -> int:
    """Returns the optimizer steps per epoch."""
    return len(sampler) // sampler.step_size


def _student(run: Run) -> str:
    trained = sum(p.numel() for p in run.student.parameters() if p.requires_grad)
    total = sum(p.numel() for p in run.student.parameters())
    frozen = f", {trained:,} of them trained" if trained < total else ""
    size = getattr(run.student.config, "image_size", None)
    at = "" if size is None else f", {size if isinstance(size, int) else 'x'.join(map(str, size))} pixels"
    depth = getattr(run.student.config, "drop_path_rate", None)
    drop = "" if depth is None else f", stochastic depth {depth:g}"
    mode = ", in eval mode" if run.args.student_mode == "eval" else ""
    return (
        f"{type(run.student).__name__}, {total:,} parameters{frozen}{at}, {run.student.config.num_labels} classes"
        f"{drop}{mode}"
    )


def _objective(run: Run) -> str:
    if run.own_objective is not None:
        return f"that of {run.own_objective}.compute_loss"
    args = run.args
    options = ", ".join(filter(None, (f"smoothing {args.label_smoothing:g}", run.class_weights)))
    labels = f"{args.label_loss.replace('_', ' ')} of the labels ({options})"
    if args.distillation_type == "none":
        return labels
    two_heads = hasattr(run.student, "distillation_classifier")
    head = "the distillation head" if two_heads else "the only head"
    soft = f", temperature {args.distillation_temperature:g}, {args.distillation_reduction}"
    taught = f"{args.distillation_type} distillation on {head}{soft if args.distillation_type == 'soft' else ''}"
    return f"{1 - args.distillation_weight:g} x {labels} + {args.distillation_weight:g} x {taught}"


def _teacher(run: Run) -> str:
    if run.teacher is None:
        return "none"
    if isinstance(run.teacher, StoredAnswers):
        return run.teacher.in_words
    size = "the student's" if run.teacher.image_size is None else "x".join(map(str, run.teacher.image_size))
    evaluation = None if run.teacher_fit is None else run.teacher_fit.evaluation
    top1 = "not measured by this run" if evaluation is None else evaluation.in_words("images")
    return f"{run.teacher.name} at {size} pixels; top-1 on {run.teacher_split} {top1}"


def _global_batch(args: DistillationArguments) -> str:
    factors = [f"{args.train_batch_size} on each of {args.world_size} processes"]
    if args.world_size == 1:
        factors = [f"{args.train_batch_size}"]
    if args.gradient_accumulation_steps > 1:
        factors.append(f"{args.gradient_accumulation_steps} accumulation steps")
    product = "" if factors == [str(args.global_batch_size)] else f" = {' x '.join(factors)}"
    return f"{args.global_batch_size}{product}"


def _images(run: Run) -> str:
    repeats, sampler = run.args.repeated_augmentation, run.sampler
    if len(sampler) == sampler.num_unique_images:
        return f"{len(sampler)} of {sampler.num_images} in each epoch"
    repeated = f", each up to {repeats} times (repeated augmentation)" if repeats > 1 else ""
    return (
        f"{len(sampler)} views per epoch, of {sampler.num_unique_images} of the {sampler.num_images} images{repeated}"
    )


def _learning_rate(run: Run) -> str:
    args, is_given = run.args, run.num_warmup_steps is None
    follows_batch = args.base_learning_rate is not None and not run.given_optimizer
    base = f"{args.base_learning_rate:g} per 512 images, " if follows_batch else ""
    decay = f", x {args.layer_decay:g} for each layer down" if args.layer_decay < 1 else ""
    name = "a given schedule" if is_given else _word(args.lr_scheduler_type)
    if run.rates is None:
        lowest = "" if is_given or args.min_learning_rate is None else f", at least {args.min_learning_rate:g}"
        follows = f" ({type(run.schedule).__name__})" if is_given else ", which follows a metric"
        return f"{base}{current_learning_rate(run.optimizer):g} at the start; {name}{follows}{lowest}{decay}"
    *of_steps, end = run.rates
    changes_by_epoch = not is_given and args.learning_rate_stepping == "official"
    stepping = ", once per epoch and one epoch late (official)" if changes_by_epoch else ""
    shape = f"{name} to {end:g}{stepping}"
    if run.num_warmup_steps is not None and run.num_warmup_steps >= len(of_steps):
        shape = f"the warm-up takes all steps, so no {name} schedule follows"
    return (
        f"{base}{max(of_steps):g} at its peak; {shape}; "
        f"{of_steps[0]:.3g} in the first step, {of_steps[-1]:.3g} in the last{decay}"
    )


def _warmup(run: Run) -> str:
    if run.num_warmup_steps is None:
        return "set by the given schedule"
    return f"{run.num_warmup_steps} steps from {run.rates[0]:g}" if run.num_warmup_steps and run.rates else "none"


def _optimizer(run: Run) -> str:
    args = run.args
    clip = f"gradient clipped to norm {args.max_grad_norm:g}" if args.max_grad_norm else "no clipping"
    if run.given_optimizer:
        decays = sorted({group.get("weight_decay", 0.0) for group in run.optimizer.param_groups}, reverse=True)
        decay = " and ".join(f"{value:g}" for value in decays)
        return f"a given {type(run.optimizer).__name__}, weight decay {decay}, {clip}"
    name = f"timm's {args.timm_optimizer}" if args.timm_optimizer is not None else _word(args.optim)
    return f"{name}, weight decay {args.weight_decay:g} (no bias, norm, token or position), {clip}"


def _views(run: Run) -> str:
    args = run.args
    crop = "simple crop" if args.crop_mode == "simple" else f"crop of {args.crop_min_scale:g} to 1 of the area"
    if max(crop_size(run.processor)) <= LARGEST_UNCROPPED_SIZE and args.crop_mode != "simple":
        crop += " (unlike the official code up to 32 pixels, which pads images by 4 pixels: `crop_mode` simple)"
    flip = f"flip {args.horizontal_flip_prob:g}" if args.horizontal_flip_prob else "no flip"
    augment = "no RandAugment" if args.random_augment == "none" else args.random_augment
    erasing = f"erasing {args.random_erase_prob:g}" if args.random_erase_prob else "no erasing"
    repeated = run.sampler.num_epochs
    of_epochs = "" if repeated is None else f"; those of {repeated} epoch{'s' if repeated > 1 else ''}, repeated"
    return f"{crop}, {flip}, {augment}, {erasing}{of_epochs}"


def _mixing(args: DistillationArguments) -> str:
    if not args.mixes:
        return "none"
    return f"mixup alpha {args.mixup_alpha:g}, cutmix alpha {args.cutmix_alpha:g}, switch {args.mixup_switch_prob:g}"


def _averages(args: DistillationArguments) -> str:
    return f"decay {args.ema_decay:g}{' with warm-up' if args.ema_warmup else ''}" if args.ema_decay else "none"


def _word(choice: Any) -> str:
    """Returns a choice of transformers, an enum or a string, as a string."""
    return str(getattr(choice, "value", choice))


def _of_objective(args: DistillationArguments) -> list[str]:
    """Returns the changed options that only the recipe's `compute_loss` reads; options of the targets always count."""
    names = ("class_weighting", "label_loss", "distillation_weight", "distillation_temperature")
    return [name for name in names if getattr(args, name) != type(args).__dataclass_fields__[name].default]


class LogRunSummary(TrainerCallback):
    """Logs the `effective_recipe` once, before the first step.

    With a teacher, its accuracy on the evaluation split is measured before, so that a broken teacher is found here and
    not at the end of the training.

    Attributes:
        recipe: the logged lines; after a training also the learning rates of its first and last step.
        teacher_was_asked: False if `compute_loss` has not called the teacher in the first step.
    """

    def __init__(self, describe_run: Callable[[int], Run], loss_log: LossLog):
        """
        Args:
            describe_run: number of optimizer steps -> facts of the training that is about to start.
            loss_log: log of the training, which knows whether the recipe's objective was computed.
        """
        self.describe_run, self.loss_log = describe_run, loss_log
        self.recipe: dict[str, str] = {}
        self.teacher_was_asked = True
        self._run: Run | None = None
        self._rates: list[tuple[int, float]] = []  # step and learning rate
        self._waits_for_first_step = False

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._rates, self._waits_for_first_step = [], True
        self._run = run = self.describe_run(state.max_steps)
        self.recipe = {**effective_recipe(run), **run.changes}
        if state.is_world_process_zero:
            logger.info("The effective recipe:\n%s", as_block(self.recipe))
            names = [str(name) for _, name in sorted(run.student.config.id2label.items())]
            warn_of_imbalance(run.class_counts, names, args.class_weighting)
            if run.teacher_fit is not None:
                warn_of_misfit(run.teacher_fit, args)
            warn_of_small_run(
                args,
                run.sampler,
                num_steps=run.num_steps,
                num_warmup_steps=run.num_warmup_steps,
                rates=run.rates,
                peak=peak_learning_rate(run.optimizer),
            )

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self._rates = [*self._rates[:1], (state.global_step + 1, current_learning_rate(optimizer))]

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._waits_for_first_step and self._run is not None and self._run.teacher is not None:
            self._run.teacher.was_asked = False  # it is True after the evaluation of the teacher

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if not self._waits_for_first_step or self._run is None:
            return
        self._waits_for_first_step = False
        teacher, own_objective = self._run.teacher, self._run.own_objective
        unread = [] if self.loss_log.has_terms else _of_objective(args)
        if teacher is not None and not teacher.was_asked:
            unread.append("teacher")
            self.teacher_was_asked = False
            self.recipe["teacher"] = f"{teacher.name}, not used by {own_objective}.compute_loss"
        if unread and state.is_world_process_zero:
            logger.warning(
                "`%s.compute_loss` replaces the recipe's objective, so these have no effect: %s; call "
                "`super().compute_loss(...)` in it, or leave them out",
                *(own_objective, ", ".join(unread)),
            )

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._rates:
            (first, first_rate), (last, last_rate) = self._rates[0], self._rates[-1]
            self.recipe["rates reached"] = f"{first_rate:g} in step {first}, {last_rate:g} in step {last}"
