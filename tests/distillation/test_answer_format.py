"""What is stored of a teacher's logits."""

import numpy as np
import pytest
import torch

from deit_hf.distillation.answer_format import AnswerFormat, answer_checksum, answer_rows
from deit_hf.distillation.losses import hard_distillation_loss, hard_logits


@pytest.mark.parametrize(
    ("num_classes", "given", "top_k"), [(1000, None, 10), (1000, 50, 50), (128, 10, 128), (129, 10, 10), (5, 10, 5)]
)
def test_all_classes_are_stored_if_there_are_few(num_classes: int, given: int | None, top_k: int):
    made = AnswerFormat("soft", num_classes, num_views=1, top_k=given, temperature=1.0)
    assert made.top_k == top_k
    assert made == AnswerFormat("soft", num_classes, num_views=1, top_k=top_k, temperature=1.0)


@pytest.mark.parametrize(("num_classes", "dtype"), [(65536, np.uint16), (65537, np.uint32)])
def test_classes_have_two_bytes_where_that_is_enough(num_classes: int, dtype: type):
    logits = torch.zeros(2, num_classes)
    logits[:, -1] = 1
    hard = answer_rows(logits, AnswerFormat("hard", num_classes, num_views=2))["answers"]
    soft = answer_rows(logits, AnswerFormat("soft", num_classes, num_views=2, temperature=1.0))["indices"]
    assert hard.dtype == soft.dtype == dtype
    assert hard.tolist() == soft[:, 0].tolist() == [num_classes - 1] * 2


def test_size_of_an_imagenet_epoch():
    views = 1_281_167
    assert AnswerFormat("hard", 1000, views).bytes_per_epoch == 2 * views + 8 * 20019  # 20019 blocks of 64
    assert AnswerFormat("soft", 1000, views, temperature=3.0).bytes_per_epoch == 44 * views + 8 * 20019


def test_soft_rows_are_rounded_logits_in_order_and_their_normaliser():
    logits = 5 * torch.randn(300, 1000, generator=torch.Generator().manual_seed(1))
    rows = answer_rows(logits, AnswerFormat("soft", 1000, num_views=300, temperature=2.0))
    expected = logits.sort(dim=-1, descending=True)
    assert np.array_equal(rows["indices"], expected.indices[:, :10].numpy())
    assert np.array_equal(rows["logits"], expected.values[:, :10].numpy().astype(np.float16))
    used = expected.values.numpy().astype(np.float64)
    used[:, :10] = rows["logits"]
    exact = np.log(np.exp(used / 2).sum(axis=1))
    assert (rows["log_normalizer"] >= exact).all()
    np.testing.assert_allclose(rows["log_normalizer"], exact, rtol=3e-7)


@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0, 3000.0])
def test_probabilities_never_sum_to_more_than_one(scale: float):
    logits = scale * torch.randn(500, 200, generator=torch.Generator().manual_seed(2))
    rows = answer_rows(logits, AnswerFormat("soft", 200, num_views=500, top_k=199, temperature=1.5))
    exponents = rows["logits"].astype(np.float64) / 1.5 - rows["log_normalizer"].astype(np.float64)[:, None]
    assert (np.exp(exponents).sum(axis=1) <= 1 + 1e-11).all()  # in float64


def test_hard_answer_is_that_of_the_loss_also_between_equal_logits():
    logits = torch.randint(0, 3, (200, 20), generator=torch.Generator().manual_seed(3)).float()  # many are equal
    student = torch.randn(200, 20, generator=torch.Generator().manual_seed(4))
    answers = answer_rows(logits.half(), AnswerFormat("hard", 20, num_views=200))["answers"]
    stored = hard_logits(torch.from_numpy(answers.astype(np.int64)), 20)
    assert torch.equal(hard_distillation_loss(student, stored), hard_distillation_loss(student, logits))


def test_equal_logits_are_in_the_order_of_the_classes():
    logits = torch.randint(0, 3, (200, 300), generator=torch.Generator().manual_seed(3)).float()
    indices = answer_rows(logits, AnswerFormat("soft", 300, num_views=200, temperature=1.0))["indices"]
    assert all((np.diff(row.astype(int)) > 0).all() for row in indices)  # the ten first ones with the greatest logit
    assert np.array_equal(indices[:, 0], logits.max(dim=-1).indices.numpy())


@pytest.mark.parametrize(
    ("values", "kind", "message"),
    [
        ([[0.0, float("nan"), 1.0]], "hard", "not finite"),
        ([[0.0, float("-inf"), 1.0]], "soft", "not finite"),
        ([[0.0, 70000.0, 1.0]], "soft", r"largest logit is 70000, but float16 ends at 65504"),
        ([[0.0, 1.0]], "hard", r"logits are \(1, 2\), but the store holds answers for 3 classes"),
        ([0.0, 1.0, 2.0], "hard", r"logits are \(3,\)"),
    ],
)
def test_logits_that_cannot_be_stored_are_refused(values: list, kind: str, message: str):
    made = AnswerFormat(kind, 3, num_views=1, temperature=1.0 if kind == "soft" else None)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=message) as error:
        answer_rows(torch.tensor(values), made)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"kind": "both"}, "is 'both', but must be 'hard' or 'soft'"),
        ({"kind": "hard", "top_k": 5}, "neither `top_k` nor `temperature`"),
        ({"kind": "soft"}, "`temperature` of soft answers is None"),
        ({"kind": "soft", "temperature": 0.0}, r"`temperature` of soft answers is 0.0"),
        ({"kind": "soft", "temperature": 1.0, "top_k": 0}, "`top_k` of soft answers is 0"),
        ({"kind": "hard", "num_views": 0}, "`num_views` of stored answers is 0"),
    ],
)
def test_formats_that_make_no_sense_are_refused(values: dict, message: str):
    with pytest.raises(ValueError, match=message):
        AnswerFormat(**{"num_classes": 3, "num_views": 1, **values})


def test_checksum_depends_on_rows_block_and_views():
    made = AnswerFormat("soft", 200, num_views=5, temperature=1.0)
    rows = answer_rows(torch.randn(5, 200, generator=torch.Generator().manual_seed(5)), made)
    others = [{**rows, name: np.roll(rows[name], 1, axis=0)} for name in rows]
    checksums = {answer_checksum(rows, made, *key) for key in ((0, 7), (1, 7), (0, 8))}
    assert len(checksums | {answer_checksum(each, made, 0, 7) for each in others}) == 6
