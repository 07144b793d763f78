"""The numbers of a report for six images of three classes, compared with counts written out by hand."""

import numpy as np
import pytest

from deit_hf.analysis.report_facts import ModelAnswers, report_facts
from deit_hf.evaluation.confident_answers import Answers

LABELS = np.array([0, 0, 1, 1, 2, 2])


def answers(classes: list[int], confidences: list[float]) -> Answers:
    return Answers(np.array(classes), np.array(confidences), np.ones(len(classes), bool))


STUDENT = ModelAnswers(
    "student",
    {
        "average": answers([0, 1, 1, 1, 2, 0], [0.9, 0.6, 0.8, 0.8, 0.7, 0.95]),
        "cls": answers([0, 1, 1, 0, 2, 0], [0.9, 0.6, 0.8, 0.5, 0.7, 0.9]),
        "distillation": answers([0, 0, 1, 1, 2, 0], [0.9, 0.55, 0.8, 0.8, 0.7, 0.9]),
    },
    {"parameters": 7},
    is_teacher=False,
)
TEACHER = ModelAnswers("teacher", {"only": answers([0, 0, 1, 1, 2, 1], [0.9] * 6)}, {}, is_teacher=True)


def facts() -> dict:
    data = {"name": "toys", "part": "test"}
    models = [STUDENT, TEACHER]
    return report_facts(models, LABELS, ["a", "b", "c"], data=data, device="cpu", thumbnails=2, runs={})


def test_accuracies_of_each_head():
    average, cls, distillation = facts()["models"][0]["heads"]
    assert (average["correct"], average["top1"], cls["top1"]) == (4, 4 / 6, 3 / 6)
    assert distillation["top1"] == 5 / 6
    assert average["balanced_accuracy"] == pytest.approx((1 / 2 + 1 + 1 / 2) / 3)
    assert average["interval"][0] < average["top1"] < average["interval"][1]
    assert average["ece"] > 0


def test_mistakes_begin_with_the_most_confident_one():
    student = facts()["models"][0]
    assert student["num_mistakes"] == 2
    assert [(each["image"], each["answer"]["class"]) for each in student["mistakes"]] == [(5, 0), (1, 1)]


def test_images_on_which_the_heads_differ():
    student, teacher = facts()["models"]
    assert student["num_disagreements"] == 2
    assert [each["image"] for each in student["disagreements"]] == [1, 3]  # 0.55 is more than 0.5
    assert student["right_where_heads_differ"] == {"average": 1, "cls": 0, "distillation": 2}
    assert teacher["num_disagreements"] is None


def test_table_of_disagreements_has_the_teacher_before_the_heads():
    table = facts()["disagreement"]
    assert [*table] == [
        *("labels", "teacher", "student, both heads", "student, class head", "student, distillation head")
    ]
    assert table["teacher"]["student, both heads"] == 2 / 6
    assert table["student, class head"]["student, distillation head"] == 2 / 6
    assert all(row[name] == 0 for name, row in table.items())
    assert table["labels"]["teacher"] == table["teacher"]["labels"] == 1 / 6


def test_models_are_compared_image_by_image():
    (comparison,) = facts()["comparisons"]
    assert (comparison["only_first"], comparison["only_second"], comparison["p_value"]) == (0, 1, 1.0)
