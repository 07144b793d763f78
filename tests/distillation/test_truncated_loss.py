"""The loss on a teacher's k greatest logits, next to a float64 oracle and the loss on all logits."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from deit_hf.distillation.answer_format import AnswerFormat, answer_rows
from deit_hf.distillation.losses import (
    TopLogits,
    distillation_objective,
    hard_distillation_loss,
    hard_logits,
    soft_distillation_loss,
    truncated_soft_distillation_loss,
)


def top_of(teacher: Tensor, k: int, temperature: float) -> TopLogits:
    """The exact k greatest logits and the normaliser, in the precision of `teacher`."""
    values, indices = teacher.topk(k)
    return TopLogits(indices, values, (teacher / temperature).logsumexp(-1))


def random_logits(*shape: int, seed: int, scale: float = 3.0) -> Tensor:
    return scale * torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def oracle(student: Tensor, teacher: Tensor, k: int, temperature: float) -> float:
    """τ² KL over k classes and a bucket, mean over the batch, in plain Python by definition."""
    total = 0.0
    for z, t in zip(student.tolist(), teacher.tolist(), strict=True):
        p, q = ([math.exp(value / temperature) for value in row] for row in (t, z))
        p, q = [value / sum(p) for value in p], [value / sum(q) for value in q]
        best = sorted(range(len(t)), key=lambda i: -t[i])[:k]
        rest = [i for i in range(len(t)) if i not in best]
        pairs = [(p[i], q[i]) for i in best]
        pairs += [(sum(p[i] for i in rest), sum(q[i] for i in rest))] if rest else []
        total += sum(a * math.log(a / b) for a, b in pairs)
    return temperature**2 * total / len(student)


@pytest.mark.parametrize("k", [1, 3, 11, 12])
@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_loss_is_the_divergence_by_definition(k: int, temperature: float):
    student, teacher = random_logits(5, 12, seed=0), random_logits(5, 12, seed=1)
    found = truncated_soft_distillation_loss(student, top_of(teacher, k, temperature), temperature=temperature)
    assert found.item() == pytest.approx(oracle(student, teacher, k, temperature), rel=1e-12)


@pytest.mark.parametrize("reduction", ["batchmean", "numel"])
def test_with_all_classes_it_is_the_full_loss(reduction: str):
    student, teacher = random_logits(6, 9, seed=2).float(), random_logits(6, 9, seed=3).float()
    options = {"temperature": 3.0, "reduction": reduction}
    found = truncated_soft_distillation_loss(student, top_of(teacher, 9, 3.0), **options)
    assert torch.equal(found, soft_distillation_loss(student, teacher, **options))


def test_numel_divides_by_all_classes():
    student, top = random_logits(6, 9, seed=2), top_of(random_logits(6, 9, seed=3), 4, 2.0)
    mean, by_all = (
        truncated_soft_distillation_loss(student, top, temperature=2.0, reduction=each)
        for each in ("batchmean", "numel")
    )
    assert by_all.item() == pytest.approx(mean.item() / 9)


@settings(max_examples=60, deadline=None)
@given(
    classes=st.integers(2, 30),
    k=st.integers(1, 30),
    temperature=st.floats(0.3, 10),
    scale=st.floats(0.01, 50),
    seed=st.integers(0, 10_000),
)
def test_it_is_between_zero_and_the_full_loss(classes: int, k: int, temperature: float, scale: float, seed: int):
    student = random_logits(4, classes, seed=seed, scale=scale)
    teacher = random_logits(4, classes, seed=seed + 1, scale=scale)
    full = soft_distillation_loss(student, teacher, temperature=temperature).item()
    found = [
        truncated_soft_distillation_loss(student, top_of(teacher, size, temperature), temperature=temperature).item()
        for size in range(1, min(k, classes) + 1)
    ]
    tolerance = 1e-9 * (1 + full)
    assert found[0] >= -tolerance
    assert all(
        a <= b + tolerance for a, b in zip(found, [*found[1:], full], strict=True)
    )  # more classes, more is seen


@pytest.mark.parametrize("k", [1, 4, 6])
def test_gradient_is_that_of_the_function(k: int):
    student = random_logits(3, 6, seed=4).requires_grad_()
    top = top_of(random_logits(3, 6, seed=5), k, 2.0)
    assert torch.autograd.gradcheck(lambda z: truncated_soft_distillation_loss(z, top, temperature=2.0), student)


def test_student_equal_to_the_teacher_has_no_loss_and_no_gradient():
    teacher = random_logits(4, 20, seed=6)
    student = teacher.clone().requires_grad_()
    loss = truncated_soft_distillation_loss(student, top_of(teacher, 5, 3.0), temperature=3.0)
    loss.backward()
    assert loss.item() == pytest.approx(0, abs=1e-12)
    assert student.grad is not None
    assert student.grad.abs().max() < 1e-12


def test_minimum_is_the_teacher_also_outside_of_the_k_classes():
    """Renormalising the k probabilities would move the minimum: the student's rest would go to 0."""
    teacher = random_logits(1, 20, seed=7, scale=1.0)
    student = torch.zeros(1, 20, dtype=torch.float64, requires_grad=True)
    top, optimizer = top_of(teacher, 5, 1.0), torch.optim.LBFGS([student], max_iter=100)

    def step() -> Tensor:
        optimizer.zero_grad()
        loss = truncated_soft_distillation_loss(student, top, temperature=1.0)
        loss.backward()
        return loss

    optimizer.step(step)
    learned, wanted = (each.softmax(-1).gather(-1, top.indices) for each in (student, teacher))
    torch.testing.assert_close(learned, wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("margin", [50.0, 5000.0])
def test_rest_without_probability_has_finite_gradients(dtype: torch.dtype, margin: float):
    """The teacher is certain, and the student in turn is certain of another class."""
    teacher = torch.zeros(2, 8)
    teacher[:, :3] = margin
    student = torch.zeros(2, 8, dtype=dtype)
    student[0, 0], student[1, 7] = margin, margin
    student.requires_grad_()
    loss = truncated_soft_distillation_loss(student, top_of(teacher, 3, 1.0), temperature=1.0)
    loss.backward()
    assert loss.isfinite()
    assert loss >= 0
    assert student.grad is not None
    assert student.grad.isfinite().all()


def test_normaliser_that_was_rounded_down_gives_no_negative_rest():
    teacher = random_logits(2, 8, seed=8).float()
    top = top_of(teacher, 7, 1.0)
    top = top._replace(log_normalizer=top.logits.logsumexp(-1) - 1e-3)
    student = random_logits(2, 8, seed=9).float().requires_grad_()
    truncated_soft_distillation_loss(student, top, temperature=1.0).backward()
    assert student.grad is not None
    assert student.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype):
    student, top = random_logits(4, 100, seed=10).to(dtype), top_of(random_logits(4, 100, seed=11).float(), 10, 2.0)
    found = truncated_soft_distillation_loss(student, top, temperature=2.0)
    assert found.dtype == torch.float32
    assert torch.equal(found, truncated_soft_distillation_loss(student.float(), top, temperature=2.0))


def test_teacher_gets_no_gradient():
    values = random_logits(2, 3, seed=12).requires_grad_()
    top = TopLogits(torch.arange(3).expand(2, 3), values, values.logsumexp(-1) + 1)
    student = random_logits(2, 6, seed=13).requires_grad_()
    truncated_soft_distillation_loss(student, top, temperature=1.0).backward()
    assert values.grad is None


def test_stored_rows_give_the_loss_on_the_rounded_logits():
    student, teacher = random_logits(50, 300, seed=14).float(), random_logits(50, 300, seed=15).float()
    rows = answer_rows(teacher, AnswerFormat("soft", 300, num_views=50, temperature=3.0))
    top = TopLogits(*(torch.from_numpy(rows[name]) for name in ("indices", "logits", "log_normalizer")))
    top = top._replace(indices=top.indices.long())
    rounded = teacher.double().scatter(-1, top.indices, top.logits.double())
    found = truncated_soft_distillation_loss(student, top, temperature=3.0).item()
    assert found == pytest.approx(oracle(student.double(), rounded, 10, 3.0), rel=1e-5)
    assert found == pytest.approx(oracle(student.double(), teacher.double(), 10, 3.0), rel=5e-3)


OPTIONS = {"weight": 0.4, "temperature": 2.0}


def test_objective_takes_the_greatest_logits():
    student, teacher = random_logits(4, 12, seed=16).float(), random_logits(4, 12, seed=17).float()
    top, targets = top_of(teacher, 5, 2.0), torch.full((4, 12), 1 / 12)
    soft = distillation_objective(student, None, targets, top, distillation_type="soft", **OPTIONS)
    assert torch.equal(soft.distillation, truncated_soft_distillation_loss(student, top, temperature=2.0))
    assert soft.loss.item() == pytest.approx(0.6 * soft.cls.item() + 0.4 * soft.distillation.item())
    hard = distillation_objective(student, None, targets, top, distillation_type="hard", **OPTIONS)
    online = distillation_objective(student, None, targets, teacher, distillation_type="hard", **OPTIONS)
    assert torch.equal(hard.loss, online.loss)


def test_stored_class_gives_the_same_bits_as_the_teachers_logits():
    student, teacher = random_logits(64, 100, seed=18).float(), random_logits(64, 100, seed=19).float() - 9
    students = [student.clone().requires_grad_() for _ in range(2)]
    stored = hard_logits(teacher.argmax(-1), 100)
    assert (stored.dtype, stored.shape) == (torch.float32, (64, 100))
    for each, logits in zip(students, (teacher, stored), strict=True):
        hard_distillation_loss(each, logits).backward()
    assert torch.equal(hard_distillation_loss(student, stored), hard_distillation_loss(student, teacher))
    assert students[0].grad is not None
    assert students[1].grad is not None
    assert torch.equal(students[0].grad, students[1].grad)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"logits": torch.zeros(2, 4)}, r"student logits are \(2, 6\) but .* \(2, 3\), \(2, 4\), \(2,\)"),
        ({"log_normalizer": torch.zeros(2, 1)}, r"must be \(batch, k\), \(batch, k\) and \(batch,\)"),
        ({"indices": torch.zeros(2, 7).long(), "logits": torch.zeros(2, 7)}, "k <= classes"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(changed: dict[str, Tensor], message: str):
    top = TopLogits(torch.zeros(2, 3).long(), torch.zeros(2, 3), torch.zeros(2))._replace(**changed)
    with pytest.raises(ValueError, match=message):
        truncated_soft_distillation_loss(torch.zeros(2, 6), top, temperature=1.0)
    with pytest.raises(ValueError, match=message):
        distillation_objective(torch.zeros(2, 6), None, torch.zeros(2, 6), top, distillation_type="hard", **OPTIONS)


def test_wrong_options_are_refused():
    top = top_of(torch.zeros(2, 6), 3, 1.0)
    with pytest.raises(ValueError, match="`temperature` is 0"):
        truncated_soft_distillation_loss(torch.zeros(2, 6), top, temperature=0)
    with pytest.raises(ValueError, match="`reduction` is 'sum'"):
        truncated_soft_distillation_loss(torch.zeros(2, 6), top, temperature=1.0, reduction="sum")  # type: ignore
