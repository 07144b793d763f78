"""Means of the loss and its terms in the log, compared with values computed by hand, also after a restart."""

import json

import pytest
import torch
from torch import Tensor

from deit_hf.distillation.losses import ObjectiveTerms
from deit_hf.reliability.step_outcome import StepOutcome
from deit_hf.training.loss_log import LossLog

STUDENT = torch.tensor([[3.0, 1.0, 2.0], [0.0, 9.0, 1.0]])  # predicts classes 0 and 1


def terms(loss: float) -> ObjectiveTerms:
    return ObjectiveTerms(torch.tensor(loss), torch.tensor(2 * loss), torch.tensor(3 * loss))


def make_log() -> LossLog:
    return LossLog(StepOutcome())


def end_step(log: LossLog, *, is_good: bool = True) -> None:
    log.outcome.is_skipped = not is_good
    log.on_step_end(None, None, None)


def add_step(log: LossLog, *losses: float, teacher_logits: Tensor = STUDENT, is_good: bool = True) -> None:
    for loss in losses:
        log.add_terms(terms(loss), STUDENT, teacher_logits)
        log.add_loss(torch.tensor(loss))
    end_step(log, is_good=is_good)


def report(log: LossLog, *, is_last: bool = False) -> dict[str, float]:
    logs = {"train_loss": 99.0} if is_last else {"loss": 99.0}  # values of `Trainer`, which are replaced
    log.complete(logs, step=4)
    return logs


@pytest.mark.parametrize(
    ("teacher_logits", "agreement"),
    [
        ([[5.0, 1.0, 1.0], [1.0, 6.0, 1.0]], 1.0),
        (
            [[5.0, 1.0, 1.0], [7.0, 6.0, 1.0]],
            0.5,
        ),  # two of the three columns would agree
        ([[1.0, 1.0, 5.0], [7.0, 6.0, 1.0]], 0.0),
    ],
)
def test_agreement_is_the_share_of_images_with_the_same_decision(teacher_logits: list, agreement: float):
    log = make_log()
    add_step(log, 1.0, teacher_logits=torch.tensor(teacher_logits))
    assert report(log)["teacher_agreement"] == agreement


def test_means_are_over_the_batches_since_the_last_report():
    log = make_log()
    add_step(log, 1.0, 2.0)
    add_step(log, 6.0)
    assert report(log) == {"loss": 3.0, "loss_cls": 6.0, "loss_distillation": 9.0, "teacher_agreement": 1.0}
    add_step(log, 5.0)
    assert report(log)["loss_cls"] == 10.0


def test_without_a_teacher_there_are_no_terms_of_it():
    log = make_log()
    log.add_terms(ObjectiveTerms(torch.tensor(1.0), torch.tensor(2.0), None), STUDENT, None)
    log.add_loss(torch.tensor(1.0))
    end_step(log)
    assert report(log) == {"loss": 1.0, "loss_cls": 2.0}


def test_a_loss_of_a_subclass_has_no_terms():
    log = make_log()
    log.add_loss(torch.tensor(4.0))
    end_step(log)
    assert not log.has_terms
    assert report(log) == {"loss": 4.0}
    log.add_terms(terms(1.0), STUDENT, None)
    assert log.has_terms


def test_the_gradient_norm_of_a_skipped_step_is_left_out():
    log = make_log()
    log.outcome.skipped_steps = [4]
    logs = {"loss": 99.0, "grad_norm": float("nan")}
    log.complete(logs, step=4)
    assert logs == {}


def test_skipped_steps_count_in_no_mean():
    log = make_log()
    add_step(log, 1.0)
    add_step(log, 7.0, is_good=False)
    add_step(log, 2.0)
    log.outcome.skipped_steps = [2]
    assert report(log) == {"loss": 1.5, "loss_cls": 3.0, "loss_distillation": 4.5, "teacher_agreement": 1.0}
    assert report(log, is_last=True) == {"train_bad_steps": 1, "train_loss": 1.5}


@pytest.mark.parametrize("stop_after", range(1, 5))
def test_means_after_a_restart_are_those_without(stop_after: int):
    whole, log = make_log(), make_log()
    reports: list[list] = [[], []]
    for number, loss in enumerate((1.0, 2.0, 7.0, 4.0, 9.0), start=1):
        for place, each in enumerate((whole, log)):
            add_step(each, loss, is_good=number != 3)
            if number == 2:  # a report before the end
                reports[place].append(report(each))
        if number == stop_after:
            state, log = json.loads(json.dumps(log.state())), make_log()
            log.restore(state)
    for place, each in enumerate((whole, log)):
        reports[place] += [report(each), report(each, is_last=True)]
    assert reports[1] == reports[0]
    assert reports[0][0]["loss_cls"] == 3.0
    assert reports[0][1]["loss"] == 6.5  # mean of 4 and 9
    assert reports[0][2]["train_loss"] == 4.0  # mean of 1, 2, 4 and 9


def test_terms_that_a_subclass_computes_twice_per_batch_count_once():
    log = make_log()
    for loss in (1.0, 3.0):
        log.add_terms(terms(loss), STUDENT, None)
        log.add_terms(terms(loss), STUDENT, None)
        log.add_loss(torch.tensor(loss))
    end_step(log)
    assert report(log) == {"loss": 2.0, "loss_cls": 4.0}
