"""scikit-learn's handwritten digits, which need no download."""

import datasets
import numpy as np


def load_digits() -> datasets.DatasetDict:
    """Loads scikit-learn's 1,797 handwritten digits of 8x8 pixels, split into 1,437 to train and 360 to test.

    Source: UCI "Optical Recognition of Handwritten Digits", test part. The split is stratified and always the same.
    """
    from sklearn.datasets import load_digits as load_arrays  # takes a second, and only this dataset needs it
    from sklearn.model_selection import train_test_split

    arrays = load_arrays()
    images = np.round(arrays.images * (255 / 16)).astype(np.uint8)  # (1797, 8, 8); 0..16 on disk
    parts = train_test_split(images, arrays.target, test_size=360, stratify=arrays.target, random_state=0)
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("0123456789"))})
    return datasets.DatasetDict(
        {
            name: datasets.Dataset.from_dict({"image": list(images), "label": labels}, features=features)
            for name, images, labels in (("train", parts[0], parts[2]), ("test", parts[1], parts[3]))
        }
    )
