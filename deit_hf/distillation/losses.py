"""The distillation objective of arXiv:2012.12877 sec. 4, and DeiT III's label loss, as plain functions of logits.

These functions do not depend on a model or a trainer. Targets are mixed in mixing.py.
"""

from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

DistillationType = Literal["none", "soft", "hard"]
Reduction = Literal["batchmean", "numel"]
ClassWeighting = Literal["none", "balanced"]
LabelLoss = Literal["cross_entropy", "binary_cross_entropy"]


class TopLogits(NamedTuple):
    """A teacher's greatest logits, and the normaliser of all of them.

    Attributes:
        indices: (B, k), classes in descending order of their logits, each once.
        logits: (B, k), of these classes.
        log_normalizer: (B,), logsumexp over all classes of logits / τ, for the τ of the loss.
    """

    indices: Tensor
    logits: Tensor
    log_normalizer: Tensor


class ObjectiveTerms(NamedTuple):
    """The objective and its two terms, each a scalar; `distillation` is None without a teacher."""

    loss: Tensor
    cls: Tensor
    distillation: Tensor | None


def balanced_class_weights(counts: Sequence[int]) -> Tensor:
    """Class weights that give each class the same total weight in a label loss: n / (k n_c), for n images, k classes.

    Their mean over the images is 1. A class without images has weight 0 and is not counted in k.

    Args:
        counts: number of images n_c of each class.

    Returns:
        float64, (C,).
    """
    images = torch.tensor(counts, dtype=torch.float64)
    return torch.where(images > 0, images.sum() / ((images > 0).sum() * images.clamp(min=1)), 0.0)


def soft_target_cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Cross-entropy with targets that are distributions, in nats, mean over the batch.

    Source: the ground-truth term of sec. 4 under mixup, cutmix and smoothing; official main.py:359-365.

    Args:
        logits: (B, C); half precision is computed in float32.
        targets: (B, C), rows sum to 1.
        class_weights: (C,), factors for the entries of a target, whether they come from the label, from mixing or
            from smoothing. The mean is over B, not over the weights, so that the loss does not depend on how a step
            is divided into batches.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: shapes differ.
    """
    _check_shapes(logits, targets, "targets")
    precise = _full_precision(logits)
    weight = None if class_weights is None else class_weights.to(precise)
    return F.cross_entropy(precise, targets.to(precise.dtype), weight=weight)


def binary_cross_entropy(logits: Tensor, targets: Tensor, class_weights: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of the presence of each class, in nats, mean over batch and classes.

    A class is present if its target is greater than 0, so both classes of a mixed image count fully.
    Source: DeiT III, arXiv:2204.07118 sec. 3, after arXiv:2110.00476; official engine.py, `targets.gt(0.0)`, and
    main.py, `BCEWithLogitsLoss`, both with `--bce-loss`.

    Args:
        logits: (B, C); half precision is computed in float32.
        targets: (B, C), not smoothed, because smoothing makes every target greater than 0.
        class_weights: (C,), for present classes; absent classes always have weight 1.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: shapes differ.
    """
    _check_shapes(logits, targets, "targets")
    precise = _full_precision(logits)
    weight = None if class_weights is None else class_weights.to(precise)
    return F.binary_cross_entropy_with_logits(precise, (targets > 0).to(precise.dtype), pos_weight=weight)


def label_loss_function(label_loss: LabelLoss) -> Callable[[Tensor, Tensor, Tensor | None], Tensor]:
    """Returns the label loss with this name.

    Raises:
        ValueError: the name is unknown.
    """
    if label_loss == "cross_entropy":
        return soft_target_cross_entropy
    if label_loss == "binary_cross_entropy":
        return binary_cross_entropy
    raise ValueError(f"`label_loss` is {label_loss!r}, but must be 'cross_entropy' or 'binary_cross_entropy'")


def soft_distillation_loss(
    student_logits: Tensor, teacher_logits: Tensor, *, temperature: float, reduction: Reduction = "batchmean"
) -> Tensor:
    """τ² KL(teacher || student) of the softened distributions, in nats.

    Source: distillation term of the soft objective, sec. 4 (equation 2), without its weight λ.
    Differs: in the printed formula, the arguments of KL are (student, teacher); we follow the official losses.py:50-60
    (pinned by test_soft_loss_is_kl_of_teacher_to_student).

    Args:
        student_logits: (B, C), from the distillation head; half precision is computed in float32.
        teacher_logits: (B, C); they get no gradient.
        temperature: τ > 0; 1 does not change the logits.
        reduction: `batchmean` is the mean over B (the formula); `numel` also divides by C (official losses.py:60),
            which makes the term C times smaller.

    Returns:
        Scalar >= 0; zero if and only if both softened distributions are equal.

    Raises:
        ValueError: shapes differ (does the teacher have other classes?), temperature <= 0, or unknown reduction.
    """
    _check_shapes(student_logits, teacher_logits, "teacher_logits")
    _check_soft_options(temperature, reduction)
    student = (_full_precision(student_logits) / temperature).log_softmax(dim=-1)
    teacher = (_full_precision(teacher_logits).detach() / temperature).log_softmax(dim=-1)
    divergence = F.kl_div(student, teacher, reduction="sum", log_target=True)
    return divergence * temperature**2 / (len(student) if reduction == "batchmean" else student.numel())


def truncated_soft_distillation_loss(
    student_logits: Tensor, top: TopLogits, *, temperature: float, reduction: Reduction = "batchmean"
) -> Tensor:
    """τ² KL(teacher || student) over the teacher's k greatest classes and one bucket for all others, in nats.

    Both distributions are softened over all classes, and then the probabilities outside of the k classes are added up.
    So this is a KL divergence, and by the data-processing inequality never greater than `soft_distillation_loss`
    (Cover and Thomas, Elements of Information Theory, sec. 2.8). With k = C the two are equal.
    Leaving the bucket out can make the sum negative; renormalising the k probabilities changes its minimum.

    Args:
        student_logits: (B, C), from the distillation head; half precision is computed in float32.
        top: of the teacher; gets no gradient.
        temperature: τ > 0, also that of `top.log_normalizer`.
        reduction: as for `soft_distillation_loss`.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: shapes differ (does the teacher have other classes?), temperature <= 0, or unknown reduction.
    """
    _check_top_logits(student_logits, top)
    _check_soft_options(temperature, reduction)
    student, indices = _full_precision(student_logits), top.indices.to(student_logits.device)
    logits = top.logits.detach().to(student)  # (B, k)
    if logits.shape == student.shape:
        in_order = torch.empty_like(student).scatter(-1, indices, logits)
        return soft_distillation_loss(student, in_order, temperature=temperature, reduction=reduction)
    scaled = student / temperature
    student_normalizer = scaled.logsumexp(dim=-1)  # (B,)
    student_top = scaled.gather(-1, indices) - student_normalizer.unsqueeze(-1)  # (B, k), log probabilities
    student_rest = scaled.scatter(-1, indices, -torch.inf).logsumexp(dim=-1) - student_normalizer  # (B,)
    teacher_top = logits / temperature - top.log_normalizer.detach().to(student).unsqueeze(-1)  # (B, k)
    rest = (1 - teacher_top.exp().sum(dim=-1)).clamp(min=0)  # (B,), a probability; rounding can make it negative
    divergence = (teacher_top.exp() * (teacher_top - student_top)).sum()
    divergence = divergence + (torch.xlogy(rest, rest) - rest * student_rest).sum()
    return divergence * temperature**2 / (len(student) if reduction == "batchmean" else student.numel())


def hard_logits(answers: Tensor, num_classes: int) -> Tensor:
    """Logits whose argmax is the given class, for `hard_distillation_loss`: 1 for the class, 0 for the others.

    Args:
        answers: (B,), int64.
        num_classes: C.

    Returns:
        (B, C), float32.
    """
    # `F.one_hot` would synchronise some devices to check the range of the answers
    return torch.zeros(len(answers), num_classes, device=answers.device).scatter_(1, answers[:, None], 1.0)


def hard_distillation_loss(student_logits: Tensor, teacher_logits: Tensor) -> Tensor:
    """Cross-entropy with the teacher's argmax as label, in nats, mean over the batch.

    Source: sec. 4 (equation 3), its second term without the factor 1/2; official losses.py:61-62. The teacher's label
    is never smoothed. If the teacher's greatest logit is infinite or NaN, the loss is NaN.

    Args:
        student_logits: (B, C), from the distillation head; half precision is computed in float32.
        teacher_logits: (B, C); only their argmax is used.

    Returns:
        Scalar >= 0.

    Raises:
        ValueError: shapes differ (does the teacher have other classes?).
    """
    _check_shapes(student_logits, teacher_logits, "teacher_logits")
    best, decisions = _full_precision(teacher_logits).detach().max(dim=-1)  # (B,); `max` returns a NaN if there is one
    return F.cross_entropy(_full_precision(student_logits), decisions) + (0 * best).sum()


def distillation_objective(
    cls_logits: Tensor,
    distillation_logits: Tensor | None,
    targets: Tensor,
    teacher_logits: Tensor | TopLogits | None,
    *,
    distillation_type: DistillationType,
    weight: float,
    temperature: float,
    reduction: Reduction = "batchmean",
    label_loss: LabelLoss = "cross_entropy",
    class_weights: Tensor | None = None,
) -> ObjectiveTerms:
    """(1 - w) L_label(class head, targets) + w L(distillation head, teacher).

    Source: sec. 4, equations 2 and 3; official losses.py:38-69. Without a distillation head, both terms act on the
    class head ("usual distillation", table 3). Without a teacher there is no second term; a distillation head is then
    trained on the targets like the class head, and `loss` is the mean of both. The distillation term does not depend
    on the label loss.

    Args:
        cls_logits: (B, C).
        distillation_logits: (B, C), or None for a model without distillation token.
        targets: (B, C), mixed and smoothed, rows sum to 1.
        teacher_logits: (B, C), or the greatest ones of each image, or None for `none`.
        distillation_type: `none`, `soft` or `hard`.
        weight: w in [0, 1] (λ of the paper).
        temperature: τ > 0, for `soft`.
        reduction: of `soft_distillation_loss` or `truncated_soft_distillation_loss`.
        label_loss: `cross_entropy`, or `binary_cross_entropy` with targets that are not smoothed.
        class_weights: (C,), for L_label of each head; the distillation term has no class weights.

    Raises:
        ValueError: shapes differ, `teacher_logits` are missing, or a type or value is unknown.
    """
    learn_labels = label_loss_function(label_loss)
    cls_loss = learn_labels(cls_logits, targets, class_weights)
    if distillation_type == "none":
        if distillation_logits is None:
            return ObjectiveTerms(cls_loss, cls_loss, None)
        distillation_loss = learn_labels(distillation_logits, targets, class_weights)
        return ObjectiveTerms((cls_loss + distillation_loss) / 2, cls_loss, None)
    if teacher_logits is None:
        raise ValueError(
            f"`distillation_type` is {distillation_type!r} but `teacher_logits` is None; pass the teacher's "
            "logits, or use 'none'"
        )
    student_logits = cls_logits if distillation_logits is None else distillation_logits
    if distillation_type == "soft":
        distillation_loss = _soft_loss(student_logits, teacher_logits, temperature, reduction)
    elif distillation_type == "hard":
        if isinstance(teacher_logits, TopLogits):
            teacher_logits = _hard_logits_of(teacher_logits, student_logits)
        distillation_loss = hard_distillation_loss(student_logits, teacher_logits)
    else:
        raise ValueError(f"`distillation_type` is {distillation_type!r}, but must be 'none', 'soft' or 'hard'")
    return ObjectiveTerms((1 - weight) * cls_loss + weight * distillation_loss, cls_loss, distillation_loss)


def _full_precision(logits: Tensor) -> Tensor:
    return logits.float() if logits.element_size() < 4 else logits


def _soft_loss(
    student_logits: Tensor, teacher: Tensor | TopLogits, temperature: float, reduction: Reduction
) -> Tensor:
    if isinstance(teacher, TopLogits):
        return truncated_soft_distillation_loss(student_logits, teacher, temperature=temperature, reduction=reduction)
    return soft_distillation_loss(student_logits, teacher, temperature=temperature, reduction=reduction)


def _hard_logits_of(top: TopLogits, student_logits: Tensor) -> Tensor:
    _check_top_logits(student_logits, top)
    return hard_logits(top.indices[:, 0].to(student_logits.device), student_logits.shape[-1])


def _check_soft_options(temperature: float, reduction: str) -> None:
    if temperature <= 0:
        raise ValueError(f"`temperature` is {temperature}, but must be greater than 0")
    if reduction not in ("batchmean", "numel"):
        raise ValueError(f"`reduction` is {reduction!r}, but must be 'batchmean' or 'numel'")


def _check_top_logits(student_logits: Tensor, top: TopLogits) -> None:
    batch, num_classes = student_logits.shape
    shapes = tuple(top.indices.shape), tuple(top.logits.shape), tuple(top.log_normalizer.shape)
    k = top.indices.shape[-1]
    if shapes != ((batch, k), (batch, k), (batch,)) or not 1 <= k <= num_classes:
        raise ValueError(
            f"student logits are {(batch, num_classes)} but indices, logits and log_normalizer of `top` are "
            f"{', '.join(map(str, shapes))}; they must be (batch, k), (batch, k) and (batch,) with k <= classes"
        )


def _check_shapes(student_logits: Tensor, other: Tensor, name: str) -> None:
    if student_logits.shape != other.shape:
        raise ValueError(
            f"student logits are {tuple(student_logits.shape)} but `{name}` are {tuple(other.shape)}; both must be "
            "(batch, classes) of the same label set"
        )
