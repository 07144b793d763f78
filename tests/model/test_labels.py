"""Matching of the classes of data and models, and mismatches that are refused."""

import datasets
import pytest
from datasets import ClassLabel, List, Value
from support.models import NAMES, labels
from timm.data import ImageNetInfo

from deit_hf.model.labels import LabelMatch, check_label_feature, label_config, match_labels, take_names


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
    with pytest.raises(
        ValueError, match="`num_labels` is 3, but column `label` has 2 named classes; leave `num_labels`"
    ):
        label_config(named, "label", 3)


def test_classes_of_a_stream_are_its_names_or_must_be_said():
    named = make_labels([0], ClassLabel(names=["yes", "no"])).to_iterable_dataset()
    assert label_config(named, "label") == labels(["yes", "no"])
    bare = make_labels([0, 4], Value("int64")).to_iterable_dataset()
    assert label_config(bare, "label", 7) == {"num_labels": 7}
    with pytest.raises(ValueError, match="the number of classes of a stream is unknown; set `num_labels`"):
        label_config(bare, "label")


@pytest.mark.parametrize(
    ("values", "label_type"),
    [
        ([1.5], Value("float32")),
        (["a"], Value("string")),
        ([True], Value("bool")),
        ([{"coarse": 1, "fine": 2}], {"coarse": Value("int64"), "fine": Value("int64")}),
    ],
)
def test_label_column_that_holds_no_classes_is_refused(values: list, label_type: object):
    message = "column `label` holds .*, but labels must be class indices; set .* or encode class names .*ClassLabel"
    with pytest.raises(TypeError, match=message):
        label_config(make_labels(values, label_type), "label")


@pytest.mark.parametrize("inner", [Value("int64"), ClassLabel(names=["a", "b"]), Value("float32")])
def test_several_labels_of_an_image_are_refused_by_name(inner: object):
    with pytest.raises(TypeError, match=r"column `label` holds List.*several labels for each image \(multi-label\)"):
        label_config(make_labels([[1, 0]], List(inner)), "label")


def test_several_right_labels_are_taken_where_they_are_asked_for():
    check_label_feature(List(Value("int64")), "label", several=True)
    with pytest.raises(TypeError, match="labels must be class indices"):
        check_label_feature(List(Value("string")), "label", several=True)


def test_a_model_without_names_takes_those_of_its_data(tiny_config):
    assert take_names(tiny_config, NAMES)
    assert tiny_config.id2label == dict(enumerate(NAMES))
    assert tiny_config.label2id == {name: index for index, name in enumerate(NAMES)}
    assert not take_names(tiny_config, ["v", "w", "x", "y", "z"])  # it already has names
    assert tiny_config.id2label == dict(enumerate(NAMES))


def test_a_model_without_names_takes_none_of_other_data(tiny_config):
    assert not take_names(tiny_config, NAMES[:4])
    assert tiny_config.id2label[0] == "LABEL_0"


# ---- matching of two sides ----


def match(names: list[str] | None, own: list[str] | None, *, num: int | None = None, **options) -> LabelMatch:
    """Matches data with `names` to a model with `own`; a model without names has 5 classes."""
    num_own = 5 if own is None else len(own)
    return match_labels(names, num, own, num_own, side="the data", own_side="the model", **options)


@pytest.mark.parametrize("needs_all", [True, False])
@pytest.mark.parametrize(
    "names", [NAMES, ["crane", "bee", "crane"], ["Great_Dane", "tabby  cat"]], ids=["same", "repeated", "spelled"]
)
def test_the_same_names_in_the_same_order_are_taken_in_silence(names: list[str], needs_all: bool):
    own = ["great dane", "Tabby cat"] if names[0] == "Great_Dane" else list(names)
    assert match(names, own, needs_all=needs_all) == LabelMatch(None, None)


def test_names_in_another_order_are_mapped_and_that_is_said():
    # dog, ant, eel, bee, cat are 3, 0, 4, 1, 2 of ant, bee, cat, dog, eel
    found = match(["dog", "ant", "eel", "bee", "cat"], NAMES, needs_all=True)
    assert found.indices == (3, 0, 4, 1, 2)
    assert found.note == (
        "the classes of the data are matched to those of the model by name: 'dog' is "
        "class 0 of the data and class 3 of the model"
    )


def test_a_part_of_the_classes_is_mapped_for_evaluation_and_refused_for_training():
    assert match(["bee", "eel"], NAMES).indices == (1, 4)
    assert match(NAMES[:2], NAMES) == LabelMatch((0, 1), None)
    message = (
        r"the data lacks 3 of the classes of the model \(ant, cat, dog\); the model has 5 classes \(ant, bee, cat, dog"
    )
    with pytest.raises(ValueError, match=message):
        match(["bee", "eel"], NAMES, needs_all=True)


@pytest.mark.parametrize("needs_all", [True, False])
def test_a_class_that_the_model_lacks_is_refused_with_the_nearest_name(needs_all: bool):
    message = r"the model lacks 1 of the classes of the data \(Bees\).*; did you mean 'bee'\?; fix it"
    with pytest.raises(ValueError, match=message):
        match([*NAMES, "Bees"], NAMES, needs_all=needs_all, advice="fix it")


def test_names_none_of_which_occur_are_refused():
    with pytest.raises(
        ValueError, match=r"none of the 2 classes of the data \(one, two\) is a class of the model; the mod"
    ):
        match(["one", "two"], ["eins", "zwei"])


def test_spelling_tells_classes_apart_where_it_must():
    assert match(["b", "B"], ["B", "b"]).indices == (1, 0)
    with pytest.raises(ValueError, match="matched by name, but the model has several classes named b; make the names"):
        match(["B_", "c"], ["B", "b", "c"])
    with pytest.raises(ValueError, match="matched by name, but the data has several classes named b"):
        match(["B", "b"], ["a", "b "])


def test_repeated_names_that_nobody_asks_for_do_no_harm():
    assert match(["bee"], ["crane", "bee", "Crane"]).indices == (1,)


@pytest.mark.parametrize(
    ("names", "expected"),
    [([str(i) for i in range(5)], None), (["0", "1", "10", "2"], (0, 1, 10, 2)), (["0", "3"], (0, 3))],
)
def test_classes_named_by_numbers_from_0_are_the_models_indices(names: list[str], expected):
    own = list("abcde") if expected is None else list("abcdefghijkl")
    found = match(names, own, numbers_are_indices=True)
    assert found.indices == expected
    with pytest.raises(ValueError, match="none of the . classes of the data"):
        match(names, own)  # in training, and for a teacher, numbers are not indices
    assert found.note == (
        "the class names of the data are numbers; they are used as class indices of the model (0 is 'a')"
    )


@pytest.mark.parametrize("names", [["1", "2", "3"], ["0", "5"], ["0", "x"], ["0", "00"], ["00", "1"]], ids="-".join)
def test_numbers_that_may_not_be_indices_are_refused(names: list[str]):
    with pytest.raises(ValueError, match="none of the . classes of the data"):
        match(names, NAMES, numbers_are_indices=True)


def test_numbers_that_are_the_models_own_names_are_names():
    assert match(["1", "0", "2"], ["0", "1", "2"], needs_all=True).indices == (1, 0, 2)


def test_wordnet_ids_are_imagenets_descriptions_both_ways():
    info = ImageNetInfo("imagenet-1k")
    ids, descriptions = info.label_names(), [text.replace(" ", "_") for text in info.label_descriptions()]
    assert match(["n01443537", "n01440764"], descriptions).indices == (1, 0)  # goldfish, tench
    assert match(["n03126707"], descriptions).indices == (517,)  # one of two classes described as crane
    assert match(ids[::-1], descriptions, needs_all=True).indices == tuple(range(999, -1, -1))
    assert match(descriptions, ids) == LabelMatch(None, None)
    with pytest.raises(ValueError, match="none of the 1 classes"):
        match(["n01440764"], descriptions[:999])  # not the list of ImageNet


@pytest.mark.parametrize(
    ("names", "own", "num", "note"),
    [
        (None, None, None, None),
        (
            None,
            NAMES,
            None,
            "the data has no class names: the class indices of the data and of the model are assumed to",
        ),
        (NAMES, None, None, "the model has no class names: the class indices of the data and of the model are assu"),
        (None, None, 5, "the data and the model have no class names: the class indices of"),
    ],
)
def test_a_side_without_names_has_as_many_classes_in_the_same_order(names, own, num, note):
    found = match(names, own, num=num)
    assert found.indices is None
    assert (found.note is None) == (note is None)
    assert note is None or found.note.startswith(note)


@pytest.mark.parametrize(
    ("names", "own", "num"), [(NAMES[:4], None, None), (None, NAMES, 6), (None, None, 4)], ids=["few", "many", "bare"]
)
def test_a_side_without_names_and_with_another_number_is_refused(names, own, num):
    with pytest.raises(
        ValueError, match=r"the data has . classes.* but the model has 5.* because .* no class names; fix it"
    ):
        match(names, own, num=num, advice="fix it")


def test_labels_that_may_count_from_1_are_said(caplog):
    assert label_config(make_labels([1, 2, 3], Value("int64")), "label") == {"num_labels": 4}
    message = "its smallest label is 1: classes 0 to 0 have no images; if the labels start at 1, subtract 1"
    assert message in caplog.text
    caplog.clear()
    label_config(make_labels([0, 2], Value("int64")), "label")
    assert caplog.text == ""
