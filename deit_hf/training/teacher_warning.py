"""Warns of a teacher that is often wrong on the views of the training."""

import logging

from ..evaluation.teacher_fit import Counted, TeacherFit
from .arguments import DistillationArguments

logger = logging.getLogger(__name__)

# The least share of its accuracy on the evaluation images that a teacher should keep on training views, before they
# are mixed and when they are. Mixed views are harder for every teacher: no model can tell which of two nearly equal
# shares is the greater one. Measured shares, without and with mixing:
# - CIFAR-10, a ResNet-20 with 80 % on test images, trained without mixing, which did the student harm: 0.86 and 0.66.
# - ImageNet, a DeiT-Tiny, trained with the paper's views and mixing, on 512 views of images that it had not seen: 0.83
#   and 0.68; with `crop_min_scale` 0.35 and no erasing: 0.94 and 0.78. A teacher keeps more on its training images.
LEAST_KEPT_ON_VIEWS = 0.85
LEAST_KEPT_ON_MIXED = 0.75


def warn_of_misfit(fit: TeacherFit, args: DistillationArguments) -> None:
    """Warns if the teacher is far worse on training views than on the evaluation images, with numbers and advice.

    Far means that even the upper end of the 95 % interval is below the share that it should keep. So the few views
    that a slow machine measures do not cause a warning by chance.
    """
    if fit.evaluation is None:
        return
    limits = ((fit.views, LEAST_KEPT_ON_VIEWS), (fit.mixed, LEAST_KEPT_ON_MIXED))
    if any(_is_below(counted, least * fit.evaluation.top1) for counted, least in limits):
        found = [] if fit.views is None else [f"is right on {fit.views.in_words('training views')}"]
        if fit.mixed is not None:
            found.append(f"predicts the dominating class of {fit.mixed.in_words('mixed views')}")
        logger.warning(
            "the teacher is right on %s, but it only %s: learning from it can harm the student; %s",
            *(fit.evaluation.in_words("evaluation images"), " and ".join(found), _advice(args)),
        )


def _is_below(counted: Counted | None, share: float) -> bool:
    return counted is not None and counted.interval[1] < share


def _advice(args: DistillationArguments) -> str:
    advice = ["use a teacher that was trained well with the views and the mixing of this run"]
    advice.append(f"use gentler views (`crop_min_scale`, now {args.crop_min_scale:g}, and `random_augment`)")
    if args.mixes:
        advice.append(f"mix less (`mixup_alpha`, now {args.mixup_alpha:g}, and `cutmix_alpha`, {args.cutmix_alpha:g})")
    if args.distillation_type == "hard":
        advice.append("set `distillation_type` to soft")
    return f"{', '.join(advice)}, or lower `distillation_weight` (now {args.distillation_weight:g})"
