"""Counts of each pair of label and prediction, and the metrics in which each class has the same weight."""

from collections.abc import Sequence
from typing import Any

import numpy as np


class Confusion:
    """Confusion matrix of an evaluation; every image must have exactly one correct class.

    Only the pairs that occur are stored, so many classes need little memory.

    Args:
        num_classes: number of classes of the model.
    """

    def __init__(self, num_classes: int):
        self.num_classes = num_classes
        self._codes: list[np.ndarray] = []

    def add(self, labels: np.ndarray, answers: np.ndarray) -> None:
        """Adds a batch of labels (B,) and predicted classes (B,)."""
        self._codes.append(labels * self.num_classes + answers)

    def _pairs(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pairs that occur, in order: labels, predictions and counts, each (P,)."""
        codes, counts = np.unique(np.concatenate(self._codes), return_counts=True)
        return *np.divmod(codes, self.num_classes), counts

    def _per_class(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Images, predictions and correct predictions of each class, each (C,)."""
        true, predicted, counts = self._pairs()
        hits = counts * (true == predicted)
        images, answers, correct = (
            np.bincount(classes, weights=weights, minlength=self.num_classes).astype(int)
            for classes, weights in ((true, counts), (predicted, counts), (true, hits))
        )
        return images, answers, correct

    def means(self) -> dict[str, float]:
        """Computes both metrics, in [0, 1], as in scikit-learn.

        Returns:
            `balanced_accuracy`: mean recall of the classes that occur; `macro_f1`: mean F1, 2 hits / (images +
            predictions), of the classes that occur or are predicted.
        """
        images, answers, hits = self._per_class()
        occurs, counted = images > 0, images + answers > 0
        recall = hits[occurs] / images[occurs]
        f1 = 2 * hits[counted] / (images + answers)[counted]
        return {"balanced_accuracy": float(recall.mean()), "macro_f1": float(f1.mean())}

    def report(self, names: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
        """Returns the counts as plain data.

        Args:
            names: class names in label order.

        Returns:
            `classes`: for each class, in label order, its `index`, `name`, number of `images`, `correct` predictions,
            and `accuracy` in [0, 1], None without images; `confusion`: for each pair of classes that occurs, the
            class indices `true` and `predicted`, and its `count`. Correct predictions are pairs, too.
        """
        images, _, correct = self._per_class()
        return {
            "classes": [
                {"index": i, "name": name, "images": n, "correct": right, "accuracy": right / n if n else None}
                for i, (name, n, right) in enumerate(zip(names, images.tolist(), correct.tolist(), strict=True))
            ],
            "confusion": [
                {"true": t, "predicted": p, "count": n}
                for t, p, n in zip(*(each.tolist() for each in self._pairs()), strict=True)
            ],
        }
