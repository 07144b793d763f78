"""Confidence intervals of accuracies: how far an accuracy on few images can be from that on many."""

import math
from statistics import NormalDist


def wilson_interval(num_correct: int, num_images: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share of correct predictions; also good for few images and for shares near 0 or 1.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Args:
        num_correct: correct predictions, in [0, num_images].
        num_images: independent images, 1 or more.
        confidence: in (0, 1).

    Returns:
        Lower and upper end, in [0, 1].

    Raises:
        ValueError: an argument is out of range.
    """
    if num_images < 1 or not 0 <= num_correct <= num_images:
        raise ValueError(f"{num_correct} of {num_images} images is not a share; there must be at least one image")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` is {confidence}, but must be in (0, 1)")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share, weight = num_correct / num_images, z**2 / num_images
    middle = (share + weight / 2) / (1 + weight)
    half = z / (1 + weight) * math.sqrt(share * (1 - share) / num_images + weight / num_images / 4)
    return max(0.0, middle - half), min(1.0, middle + half)
