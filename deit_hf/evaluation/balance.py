"""Metrics in which each class has the same weight, regardless of its number of images."""

import numpy as np


class ClassTally:
    """Counts images, predictions and correct predictions of each class, for metrics that are means over classes.

    Every image must have exactly one correct label.
    """

    def __init__(self, num_classes: int):
        self.images, self.answers, self.hits = (np.zeros(num_classes, dtype=np.int64) for _ in range(3))

    def add(self, labels: np.ndarray, answers: np.ndarray) -> None:
        """Adds a batch of labels (B,) and predicted classes (B,)."""
        for counts, classes in (
            (self.images, labels),
            (self.answers, answers),
            (self.hits, labels[labels == answers]),
        ):
            counts += np.bincount(classes, minlength=len(counts))

    def result(self) -> dict[str, float]:
        """Computes both metrics, in [0, 1], as in scikit-learn.

        Returns:
            `balanced_accuracy`: mean recall of the classes that occur; `macro_f1`: mean F1, 2 hits / (images +
            predictions), of the classes that occur or are predicted.
        """
        occurs, counted = self.images > 0, self.images + self.answers > 0
        recall = self.hits[occurs] / self.images[occurs]
        f1 = 2 * self.hits[counted] / (self.images + self.answers)[counted]
        return {"balanced_accuracy": float(recall.mean()), "macro_f1": float(f1.mean())}
