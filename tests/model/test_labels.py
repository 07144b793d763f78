"""Classes of data and models: which are the same, and which are refused."""

import datasets
import pytest
from datasets import ClassLabel, List, Value
from support.models import NAMES, labels

from deit_hf.model.labels import check_label_order, label_config


def make_labels(values: list, label_type: object = None) -> datasets.Dataset:
    features = None if label_type is None else datasets.Features({"label": label_type})
    return datasets.Dataset.from_dict({"label": values}, features=features)


def test_class_names_of_the_data_become_the_models():
    assert label_config(make_labels([0], ClassLabel(names=["yes", "no"])), "label") == labels(["yes", "no"])


@pytest.mark.parametrize("label_type", ["int64", "int8", "uint16"])
def test_bare_numbers_give_one_class_more_than_the_largest(label_type: str):
    assert label_config(make_labels([0, 4, 1], Value(label_type)), "label") == {"num_labels": 5}
    assert label_config(make_labels([0, None, 4], Value(label_type)), "label") == {"num_labels": 5}


def test_number_of_labels_is_for_classes_without_names():
    assert label_config(make_labels([0, 4]), "label", 7) == {"num_labels": 7}
    named = make_labels([0], ClassLabel(names=["yes", "no"]))
    assert label_config(named, "label", 2) == labels(["yes", "no"])
    with pytest.raises(ValueError, match="`num_labels` is 3, but column `label` has 2 classes with names; leave it"):
        label_config(named, "label", 3)


def test_classes_of_a_stream_are_its_names_or_must_be_said():
    named = make_labels([0], ClassLabel(names=["yes", "no"])).to_iterable_dataset()
    assert label_config(named, "label") == labels(["yes", "no"])
    bare = make_labels([0, 4], Value("int64")).to_iterable_dataset()
    assert label_config(bare, "label", 7) == {"num_labels": 7}
    with pytest.raises(ValueError, match="how many there are is not known .*; say how many with `num_labels`"):
        label_config(bare, "label")


@pytest.mark.parametrize(
    ("values", "label_type"),
    [
        ([1.5], Value("float32")),
        (["a"], Value("string")),
        ([True], Value("bool")),
        ([[1]], List(Value("int64"))),
    ],
)
def test_label_column_that_holds_no_classes_is_refused(values: list, label_type: object):
    with pytest.raises(TypeError, match="column `label` holds .*, but labels must be class indices or names; set"):
        label_config(make_labels(values, label_type), "label")


@pytest.mark.parametrize(
    ("names", "own"),
    [
        (None, NAMES),
        (NAMES, NAMES),
        (NAMES[:2], NAMES),  # the first classes alone
        (["crane", "bee", "crane"], ["crane", "bee", "crane", "eel"]),  # ImageNet has two of this name
    ],
)
def test_labels_in_the_models_order_are_taken_in_silence(names: list[str] | None, own: list[str], caplog):
    check_label_order(names, dict(enumerate(own)))
    assert caplog.text == ""


def test_labels_of_other_names_are_said(caplog: pytest.LogCaptureFixture):
    check_label_order(["one", "two"], {0: "eins", 1: "zwei"})
    assert "labels have other names in the data (one, ...) than in the model (eins, ...)" in caplog.text


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["bee", "ant", "cat", "dog", "eel"], "label 'bee' has index 0 in the data but 1 in the model"),
        (["cat", "dog"], "label 'cat' has index 0 in the data but 2 in the model; bring .*align_labels_with_mapping"),
        (["ant", "bee", "cat", "dog", "fox", "eel"], "label 'eel' has index 5 in the data but 4 in the model"),
    ],
)
def test_labels_in_another_order_are_refused(names: list[str], message: str):
    # they would be counted as errors of the model
    with pytest.raises(ValueError, match=message):
        check_label_order(names, dict(enumerate(NAMES)))


def test_numbered_classes_are_the_models_indices_and_that_is_said_in_one_line(caplog: pytest.LogCaptureFixture):
    check_label_order([str(number) for number in range(12)], dict(enumerate("abcdefghijkl")))
    assert caplog.messages == ["classes of the data are numbers, taken for the model's class indices (0 is a)"]


@pytest.mark.parametrize("names", [["1", "2"], ["0", "1", "10", "2"], ["0", "2"]], ids="-".join)
def test_numbered_classes_that_are_no_indices_are_refused(names: list[str]):
    # the labels that `datasets` gives them would be counted as the model's
    with pytest.raises(ValueError, match="class '.*' of the data has index .; classes that are named by numbers"):
        check_label_order(names, dict(enumerate(NAMES)))
