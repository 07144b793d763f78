"""The numbers of a report as plain data: computed from the answers of all models to the same images."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from ..evaluation.answers import disagreement, mcnemar_test
from ..evaluation.calibration import expected_calibration_error, reliability_bins
from ..evaluation.confident_answers import ONLY, Answers
from ..evaluation.confusion import Confusion
from ..evaluation.intervals import wilson_interval

TITLES = {"average": "both heads", "cls": "class head", "distillation": "distillation head", ONLY: "model"}


class ModelAnswers(NamedTuple):
    """A model and its answers.

    Attributes:
        name: for people.
        answers: by head, with the classes in the order of the report.
        cost: size and speed, copied into the facts.
        is_teacher: whether it is a teacher of others.
        taught: names of the models that learned from it, as far as their runs tell.
    """

    name: str
    answers: Mapping[str, Answers]
    cost: Mapping[str, Any]
    is_teacher: bool
    taught: Sequence[str] = ()

    @property
    def main(self) -> Answers:
        """The answers of the model: of the only head, or of both heads combined."""
        return next(iter(self.answers.values()))

    @property
    def parts(self) -> dict[str, np.ndarray]:
        """The predicted classes by model and head, for the table of disagreements."""
        heads = self.answers if len(self.answers) > 1 else {"": self.main}
        return {", ".join(filter(None, (self.name, TITLES.get(head)))): each.classes for head, each in heads.items()}


def report_facts(
    models: Sequence[ModelAnswers],
    labels: np.ndarray,
    class_names: Sequence[str],
    *,
    data: Mapping[str, str],
    device: str,
    thumbnails: int,
    runs: Mapping[str, Any],
) -> dict[str, Any]:
    """Computes all numbers of a report; shares are in [0, 1].

    Args:
        models: the first one is compared with each of the others.
        labels: (N,), class indices.
        class_names: in the order of the indices.
        data: `name` and `part`.
        device: that measured the speed.
        thumbnails: images in each list of images.
        runs: by model, what its directory tells about the training.

    Returns:
        `data`; `device`; `models`, each with `heads`, `classes`, `confusion`, `mistakes` and `disagreements`;
        `disagreement`, by pair of models and heads; `comparisons` of the first model with each of the others.
    """
    named = {"labels": labels}
    for model in sorted(models, key=lambda each: not each.is_teacher):
        named |= model.parts
    return {
        "data": {**data, "images": len(labels), "classes": list(class_names)},
        "device": device,
        "models": [_of_model(model, labels, class_names, thumbnails, runs.get(model.name)) for model in models],
        "disagreement": disagreement(named),
        "comparisons": [_comparison(models[0], other, labels) for other in models[1:]],
    }


def _of_model(
    model: ModelAnswers, labels: np.ndarray, class_names: Sequence[str], thumbnails: int, run: Any
) -> dict[str, Any]:
    confusion = Confusion(len(class_names))
    confusion.add(labels, model.main.classes)
    return {
        "name": model.name,
        "is_teacher": model.is_teacher,
        "taught": list(model.taught),
        **model.cost,
        "heads": [
            {"head": head, "title": TITLES[head], **_of_head(answers, labels, len(class_names))}
            for head, answers in model.answers.items()
        ],
        **confusion.report(class_names),
        "num_mistakes": int(np.sum(model.main.classes != labels)),
        "mistakes": _mistakes(model.main, labels, thumbnails),
        **_disagreements(model, labels, thumbnails),
        "run": run,
    }


def _of_head(answers: Answers, labels: np.ndarray, num_classes: int) -> dict[str, Any]:
    correct = answers.classes == labels
    confusion = Confusion(num_classes)
    confusion.add(labels, answers.classes)
    bins = reliability_bins(answers.confidences, correct)
    return {
        "correct": int(correct.sum()),
        "top1": float(correct.mean()),
        "interval": list(wilson_interval(int(correct.sum()), len(labels))),
        "top5": float(answers.in_top5.mean()),
        **confusion.means(),
        "confidence": float(answers.confidences.mean(dtype=np.float64)),
        "ece": expected_calibration_error(bins),
        "bins": [each._asdict() for each in bins],
    }


def _mistakes(answers: Answers, labels: np.ndarray, most: int) -> list[dict[str, Any]]:
    """The wrong answers of the greatest confidence, first the most confident one."""
    wrong = np.flatnonzero(answers.classes != labels)
    order = wrong[np.argsort(-answers.confidences[wrong], kind="stable")][:most]
    return [{"image": int(i), "label": int(labels[i]), "answer": _answer(answers, i)} for i in order]


def _disagreements(model: ModelAnswers, labels: np.ndarray, most: int) -> dict[str, Any]:
    """The images on which the two heads differ, first those on which the less confident head is most confident."""
    if len(model.answers) == 1:
        return {"num_disagreements": None, "disagreements": []}
    first, second = model.answers["cls"], model.answers["distillation"]
    differ = np.flatnonzero(first.classes != second.classes)
    sure = np.minimum(first.confidences, second.confidences)[differ]
    shown = [
        {
            "image": int(i),
            "label": int(labels[i]),
            "cls": _answer(first, i),
            "distillation": _answer(second, i),
            "average": _answer(model.main, i),
        }
        for i in differ[np.argsort(-sure, kind="stable")][:most]
    ]
    right = {head: int(np.sum(each.classes[differ] == labels[differ])) for head, each in model.answers.items()}
    return {"num_disagreements": len(differ), "right_where_heads_differ": right, "disagreements": shown}


def _answer(answers: Answers, image: int) -> dict[str, Any]:
    return {"class": int(answers.classes[image]), "confidence": round(float(answers.confidences[image]), 4)}


def _comparison(model: ModelAnswers, other: ModelAnswers, labels: np.ndarray) -> dict[str, Any]:
    """How often only one of two models is correct, and whether that can be chance (McNemar's test)."""
    mine, its = model.main.classes == labels, other.main.classes == labels
    return {
        "first": model.name,
        "second": other.name,
        "only_first": int(np.sum(mine & ~its)),
        "only_second": int(np.sum(~mine & its)),
        "p_value": mcnemar_test(mine, its),
    }
