"""The range or the choices of each training option of this package."""

from typing import Any

from ..argument_checks import check, check_choice
from ..evaluation.fusion import FUSIONS


def check_ranges(args: Any) -> None:
    """Checks the options of `DistillationArguments` one by one.

    Raises:
        ValueError: names the option, its value and what is allowed.
    """
    _check_choices(args)
    _check_numbers(args)
    _check_numbers_or_none(args)


def _check_choices(args: Any) -> None:
    check_choice("distillation_type", args.distillation_type, ("none", "soft", "hard"))
    check_choice("distillation_reduction", args.distillation_reduction, ("batchmean", "numel"))
    check_choice("learning_rate_stepping", args.learning_rate_stepping, ("step", "official"))
    check_choice("student_mode", args.student_mode, ("train", "eval"))
    check_choice("label_loss", args.label_loss, ("cross_entropy", "binary_cross_entropy"))
    check_choice("class_weighting", args.class_weighting, ("none", "balanced"))
    check_choice("crop_mode", args.crop_mode, ("random_resized", "simple"))
    check_choice("on_bad_image", args.on_bad_image, ("error", "skip"))
    check_choice("fusion", args.fusion, tuple(FUSIONS))


def _check_numbers(args: Any) -> None:
    check("distillation_temperature", args.distillation_temperature, lambda v: v > 0, "greater than 0")
    for name in ("distillation_weight", "mixup_switch_prob", "random_erase_prob", "horizontal_flip_prob"):
        check(name, getattr(args, name), lambda v: 0 <= v <= 1, "in [0, 1]")
    for name in ("mixup_alpha", "cutmix_alpha", "color_jitter", "warmup_learning_rate"):
        check(name, getattr(args, name), lambda v: v >= 0, "0 or more")
    for name in ("weight_decay", "max_grad_norm", "num_train_epochs"):
        check(name, getattr(args, name), lambda v: v >= 0, "0 or more")
    for name in ("per_device_train_batch_size", "gradient_accumulation_steps"):
        check(name, getattr(args, name), lambda v: v >= 1, "1 or more")
    for name in ("adam_beta1", "adam_beta2"):
        check(name, getattr(args, name), lambda v: 0 <= v < 1, "in [0, 1)")
    check("layer_decay", args.layer_decay, lambda v: 0 < v <= 1, "in (0, 1] (1 turns it off)")
    check("label_smoothing", args.label_smoothing, lambda v: 0 <= v < 1, "in [0, 1)")
    check("ema_decay", args.ema_decay, lambda v: 0 <= v < 1, "in [0, 1) (0 turns averaging off; official: 0.99996)")
    check("crop_min_scale", args.crop_min_scale, lambda v: 0 < v <= 1, "in (0, 1]")
    check("max_bad_steps", args.max_bad_steps, lambda v: v >= 0, "0 or more (0 stops at the first bad step)")
    check("min_steps_per_epoch", args.min_steps_per_epoch, lambda v: v >= 0, "0 or more (0 turns it off)")
    check("repeated_augmentation", args.repeated_augmentation, lambda v: v >= 1, "1 or more (1 turns it off)")
    for name in ("num_streams", "shuffle_buffer_size"):
        check(name, getattr(args, name), lambda v: v >= 1, "1 or more")


def _check_numbers_or_none(args: Any) -> None:
    for name in ("learning_rate", "base_learning_rate", "min_learning_rate", "warmup_epochs"):
        if getattr(args, name) is not None:
            check(name, getattr(args, name), lambda v: v >= 0, "0 or more")
    for name in ("num_train_samples", "teacher_cache_epochs"):
        if getattr(args, name) is not None:
            check(name, getattr(args, name), lambda v: v >= 1, "1 or more")
