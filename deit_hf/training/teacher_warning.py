"""Warns of a teacher that is often wrong on the views of the training."""

import logging

from ..evaluation.teacher_fit import Counted, TeacherFit
from .arguments import DistillationArguments

logger = logging.getLogger(__name__)

# The least share of its accuracy on the evaluation images that a teacher should keep on training views, before they
# are mixed and when they are. Mixed views are harder for every teacher: no model can tell which of two nearly equal
# shares is the greater one.
# Measured on CIFAR-10: a ResNet-20 with 80 % on test images kept 86 % and 66 % of it, and did the student harm.
LEAST_KEPT_ON_VIEWS = 0.95
LEAST_KEPT_ON_MIXED = 0.75


def warn_of_misfit(fit: TeacherFit, args: DistillationArguments) -> None:
    """Warns if the teacher is far worse on training views than on the evaluation images, with numbers and advice.

    Far means that even the upper end of the 95 % interval is below the share that it should keep. So the few views
    that a slow machine measures do not cause a warning by chance.
    """
    if fit.evaluation is None:
        return
    expected, found = fit.evaluation.top1, []
    if fit.views is not None and _is_below(fit.views, LEAST_KEPT_ON_VIEWS * expected):
        found.append(f"is right on {fit.views.in_words('training views')}")
    if fit.mixed is not None and _is_below(fit.mixed, LEAST_KEPT_ON_MIXED * expected):
        found.append(f"names the dominating class of {fit.mixed.in_words('mixed views')}")
    if found:
        logger.warning(
            "the teacher %s, but is right on %s: learning from it can do the student harm; %s",
            *(" and ".join(found), fit.evaluation.in_words("evaluation images"), _advice(args)),
        )


def _is_below(counted: Counted, share: float) -> bool:
    return counted.interval[1] < share


def _advice(args: DistillationArguments) -> str:
    advice = ["train the teacher with the views and the mixing of this run"]
    advice.append(f"use gentler views (`crop_min_scale`, now {args.crop_min_scale:g}, and `random_augment`)")
    if args.mixes:
        advice.append(f"mix less (`mixup_alpha`, now {args.mixup_alpha:g}, and `cutmix_alpha`, {args.cutmix_alpha:g})")
    if args.distillation_type == "hard":
        advice.append("set `distillation_type` to soft")
    return f"{', '.join(advice)}, or lower `distillation_weight` (now {args.distillation_weight:g})"
