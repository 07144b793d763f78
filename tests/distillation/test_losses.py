"""Losses: all expected values are computed by hand or with the logarithms of the standard library, in float64."""

import math

import pytest
import torch
from timm.loss import BinaryCrossEntropy

from deit_hf import hard_distillation_loss, soft_distillation_loss
from deit_hf.distillation.losses import (
    balanced_class_weights,
    binary_cross_entropy,
    distillation_objective,
    soft_target_cross_entropy,
)

STUDENT = [[1.0, 2.0, 0.5], [0.0, -1.0, 3.0]]
TEACHER = [[2.0, 0.0, 1.0], [0.5, 0.5, 1.5]]
TARGETS = [[0.7, 0.2, 0.1], [0.0, 0.5, 0.5]]


def tensor(rows: list[list[float]]) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64)


def softmax(row: list[float], temperature: float = 1.0) -> list[float]:
    powers = [math.exp(value / temperature) for value in row]
    return [power / sum(powers) for power in powers]


def divergence(temperature: float) -> float:
    """Returns the sum over the rows of KL(teacher || student), by definition."""
    total = 0.0
    for student, teacher in zip(STUDENT, TEACHER, strict=True):
        p, q = softmax(teacher, temperature), softmax(student, temperature)
        total += sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    return total


def cross_entropy(logits: list[list[float]], targets: list[list[float]]) -> float:
    rows = zip(logits, targets, strict=True)
    return -sum(t * math.log(p) for row, target in rows for p, t in zip(softmax(row), target, strict=True)) / len(
        logits
    )


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_soft_loss_is_kl_of_teacher_to_student(temperature: float):
    # reversed arguments, a missing τ² or a missing temperature on either side change the value
    loss = soft_distillation_loss(tensor(STUDENT), tensor(TEACHER), temperature=temperature)
    assert loss.item() == pytest.approx(temperature**2 * divergence(temperature) / 2, abs=1e-12)


def test_numel_reduction_divides_by_classes_too():
    loss = soft_distillation_loss(tensor(STUDENT), tensor(TEACHER), temperature=3.0, reduction="numel")
    assert loss.item() == pytest.approx(9 * divergence(3.0) / 6, abs=1e-12)


def test_soft_loss_is_zero_for_equal_answers_and_positive_otherwise():
    assert soft_distillation_loss(tensor(STUDENT), tensor(STUDENT), temperature=2.0).item() == pytest.approx(
        0, abs=1e-15
    )
    assert soft_distillation_loss(tensor(STUDENT), tensor(TEACHER), temperature=2.0).item() > 0.1


def test_hard_loss_is_cross_entropy_with_teachers_decision():
    expected = -(math.log(softmax(STUDENT[0])[0]) + math.log(softmax(STUDENT[1])[2])) / 2
    assert hard_distillation_loss(tensor(STUDENT), tensor(TEACHER)).item() == pytest.approx(expected, abs=1e-12)


def test_no_gradient_reaches_the_teacher():
    teacher = tensor(TEACHER).requires_grad_()
    student = tensor(STUDENT).requires_grad_()
    soft_distillation_loss(student, teacher, temperature=2.0).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert student.grad.abs().sum() > 0


def test_half_precision_is_computed_in_float32():
    half = torch.tensor(STUDENT, dtype=torch.bfloat16)
    loss = soft_distillation_loss(half, half.roll(1, 0), temperature=1.0)
    expected = soft_distillation_loss(half.double(), half.double().roll(1, 0), temperature=1.0)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"temperature": 0.0}, "`temperature` is 0.0, but must be greater than 0"),
        ({"temperature": 1.0, "reduction": "mean"}, "`reduction` is 'mean', but must be"),
    ],
)
def test_bad_values_are_named(arguments: dict, message: str):
    with pytest.raises(ValueError, match=message):
        soft_distillation_loss(tensor(STUDENT), tensor(TEACHER), **arguments)


def test_teacher_with_other_classes_is_refused_with_both_shapes():
    with pytest.raises(ValueError, match=r"\(2, 3\) but `teacher_logits` are \(2, 4\)"):
        hard_distillation_loss(torch.zeros(2, 3), torch.zeros(2, 4))


def test_soft_target_cross_entropy_from_its_definition():
    loss = soft_target_cross_entropy(tensor(STUDENT), tensor(TARGETS))
    assert loss.item() == pytest.approx(cross_entropy(STUDENT, TARGETS), abs=1e-12)


def presence_loss(logits: list[list[float]]) -> float:
    """Returns the mean over all six classes of TARGETS: -log p if present (above 0), else -log(1 - p)."""
    present = [[True, True, True], [False, True, True]]
    chances = [1 / (1 + math.exp(-value)) for row in logits for value in row]
    flags = [flag for row in present for flag in row]
    return -sum(math.log(p if flag else 1 - p) for p, flag in zip(chances, flags, strict=True)) / 6


def test_binary_cross_entropy_asks_for_each_class_whether_it_is_in_the_mixed_image():
    # unchanged targets (no `> 0`), or a sum over classes, change the value
    loss = binary_cross_entropy(tensor(STUDENT), tensor(TARGETS))
    assert loss.item() == pytest.approx(presence_loss(STUDENT), abs=1e-12)


def test_binary_cross_entropy_is_the_official_one_of_deit_iii():
    # `BCEWithLogitsLoss` with `targets.gt(0.0)`, as timm's `target_threshold`
    expected = BinaryCrossEntropy(smoothing=0.0, target_threshold=0.0)(tensor(HEAD), tensor(TARGETS))
    assert binary_cross_entropy(tensor(HEAD), tensor(TARGETS)).item() == pytest.approx(expected.item(), abs=1e-12)
    assert binary_cross_entropy(torch.tensor(HEAD, dtype=torch.bfloat16), tensor(TARGETS)).dtype == torch.float32


def objective(distillation_logits, teacher_logits, **options):
    options = {"weight": 0.3, "temperature": 3.0, **options}
    return distillation_objective(tensor(STUDENT), distillation_logits, tensor(TARGETS), teacher_logits, **options)


HEAD = [[0.3, -0.2, 1.1], [2.0, 0.1, 0.0]]


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_objective_weighs_class_head_on_targets_and_distillation_head_on_teacher(kind: str):
    # swapped heads or an ignored weight change the value
    head, teacher = tensor(HEAD), tensor(TEACHER)
    terms = objective(head, teacher, distillation_type=kind)
    expected = soft_distillation_loss(head, teacher, temperature=3.0)
    if kind == "hard":
        expected = hard_distillation_loss(head, teacher)
    assert terms.cls.item() == pytest.approx(cross_entropy(STUDENT, TARGETS), abs=1e-12)
    assert terms.distillation is not None
    assert terms.distillation.item() == pytest.approx(expected.item(), abs=1e-12)
    assert terms.loss.item() == pytest.approx(0.7 * terms.cls.item() + 0.3 * expected.item(), abs=1e-12)


def test_usual_distillation_puts_both_terms_on_the_only_head():
    terms = objective(None, tensor(TEACHER), distillation_type="hard", weight=0.5)
    expected = hard_distillation_loss(tensor(STUDENT), tensor(TEACHER)).item()
    assert terms.loss.item() == pytest.approx(0.5 * cross_entropy(STUDENT, TARGETS) + 0.5 * expected, abs=1e-12)


def test_without_teacher_both_heads_learn_from_the_targets():
    terms = objective(tensor(HEAD), None, distillation_type="none")
    mean = (cross_entropy(STUDENT, TARGETS) + cross_entropy(HEAD, TARGETS)) / 2
    assert terms.loss.item() == pytest.approx(mean, abs=1e-12)
    assert terms.cls.item() == pytest.approx(cross_entropy(STUDENT, TARGETS), abs=1e-12)
    assert terms.distillation is None


def test_distillation_without_teacher_logits_is_refused():
    with pytest.raises(ValueError, match="`distillation_type` is 'soft' but `teacher_logits` is None"):
        objective(None, None, distillation_type="soft")


def test_binary_cross_entropy_takes_the_labels_place_and_leaves_the_teachers_term():
    head, teacher = tensor(HEAD), tensor(TEACHER)
    terms = objective(head, teacher, distillation_type="hard", label_loss="binary_cross_entropy")
    expected = hard_distillation_loss(head, teacher).item()
    assert terms.cls.item() == pytest.approx(presence_loss(STUDENT), abs=1e-12)
    assert terms.loss.item() == pytest.approx(0.7 * presence_loss(STUDENT) + 0.3 * expected, abs=1e-12)
    both = objective(head, None, distillation_type="none", label_loss="binary_cross_entropy")
    assert both.loss.item() == pytest.approx((presence_loss(STUDENT) + presence_loss(HEAD)) / 2, abs=1e-12)


def test_unknown_label_loss_is_named():
    with pytest.raises(ValueError, match="`label_loss` is 'bce', but must be 'cross_entropy' or"):
        objective(None, None, distillation_type="none", label_loss="bce")


# ---- class weights ----

WEIGHTS = [0.5, 2.0, 3.0]


def weighted_cross_entropy(logits: list[list[float]]) -> float:
    rows = zip(logits, TARGETS, strict=True)
    terms = (zip(softmax(row), target, WEIGHTS, strict=True) for row, target in rows)
    return -sum(w * t * math.log(p) for row in terms for p, t, w in row) / len(logits)


def test_balanced_weights_give_each_class_the_same_part_and_the_images_the_mean_one():
    counts = [6, 0, 2, 4]
    weights = balanced_class_weights(counts).tolist()
    assert weights == pytest.approx([12 / (3 * 6), 0, 12 / (3 * 2), 12 / (3 * 4)], abs=1e-15)
    parts = [weight * count for weight, count in zip(weights, counts, strict=True)]
    assert parts == pytest.approx([4, 0, 4, 4])
    assert balanced_class_weights([5, 5]).tolist() == [1, 1]


def test_each_share_of_a_target_has_its_class_weight_and_the_mean_is_over_the_batch():
    # a mean over the weights, or weights per row, change the value
    loss = soft_target_cross_entropy(tensor(STUDENT), tensor(TARGETS), tensor(WEIGHTS))
    assert loss.item() == pytest.approx(weighted_cross_entropy(STUDENT), abs=1e-12)
    halves = [
        soft_target_cross_entropy(tensor(STUDENT)[i : i + 1], tensor(TARGETS)[i : i + 1], tensor(WEIGHTS))
        for i in (0, 1)
    ]
    assert (sum(halves) / 2).item() == pytest.approx(loss.item(), abs=1e-12)


def test_presence_of_a_class_has_its_weight_in_the_binary_loss():
    expected = 0.0
    for row, target in zip(STUDENT, TARGETS, strict=True):
        for logit, share, weight in zip(row, target, WEIGHTS, strict=True):
            p = 1 / (1 + math.exp(-logit))
            expected -= weight * math.log(p) if share > 0 else math.log(1 - p)
    loss = binary_cross_entropy(tensor(STUDENT), tensor(TARGETS), tensor(WEIGHTS))
    assert loss.item() == pytest.approx(expected / 6, abs=1e-12)


def test_class_weights_are_of_the_label_terms_alone():
    options = {"weight": 0.3, "temperature": 2.0, "class_weights": tensor(WEIGHTS)}
    cls, distillation = tensor(STUDENT), tensor(TEACHER)
    terms = distillation_objective(cls, None, tensor(TARGETS), tensor(TEACHER), distillation_type="soft", **options)
    assert terms.cls.item() == pytest.approx(weighted_cross_entropy(STUDENT), abs=1e-12)
    assert terms.distillation.item() == pytest.approx(4 * divergence(2.0) / 2, abs=1e-12)
    assert terms.loss.item() == pytest.approx(0.7 * terms.cls.item() + 0.3 * terms.distillation.item(), abs=1e-12)
    both = distillation_objective(cls, distillation, tensor(TARGETS), None, distillation_type="none", **options)
    expected = (weighted_cross_entropy(STUDENT) + weighted_cross_entropy(TEACHER)) / 2
    assert both.loss.item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("loss", [soft_target_cross_entropy, binary_cross_entropy])
def test_targets_of_other_classes_or_images_are_refused(loss):
    """Red when a target of one row is broadcast over the batch without an error."""
    for shape in ((2, 3), (1, 4)):
        message = rf"student logits are \(2, 4\) but `targets` are \({shape[0]}, {shape[1]}\)"
        with pytest.raises(ValueError, match=message):
            loss(torch.zeros(2, 4), torch.zeros(shape))
