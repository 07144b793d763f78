"""Options of student, data and evaluation: invalid values raise helpful errors."""

from functools import partial
from pathlib import Path

import pytest
from transformers import HfArgumentParser

from deit_hf.data.sources.arguments import DataArguments
from deit_hf.evaluation.arguments import EvaluationArguments, ReportArguments
from deit_hf.model.arguments import ModelArguments


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "`model_name_or_path` is None and `variant` is None; give one: .*deit_tiny_patch16_224"),
        ({"model_name_or_path": "x", "variant": "deit_tiny_patch16_224"}, "`model_name_or_path` is x and `variant`"),
        (
            {"model_name_or_path": "x", "config_overrides": {"hidden_size": 96}},
            "`config_overrides` needs a `variant`",
        ),
        ({"variant": "v", "config_overrides": "{hidden_size: 96}"}, r"'\{hidden_size: 96\}', which is not valid JSON"),
        (
            {"variant": "v", "config_overrides": "[1]"},
            r'is \[1\], but must be a JSON object such as \{"hidden_size": 96\}',
        ),
        (
            {"variant": "v", "config_overrides": {"hiden_size": 96}},
            "not a field of DeiTConfig; did you mean `hidden_size`",
        ),
        ({"variant": "v", "config_overrides": {"zzz": 96}}, "`zzz`, which is not a field of DeiTConfig$"),
        ({"variant": "v", "use_distillation_token": False}, "is for loaded weights, but `variant` is v"),
        ({"variant": "v", "eval_crop": "top"}, "`eval_crop` is 'top', but must be one of center, squash"),
        ({"variant": "v", "crop_ratio": 1.5}, r"`crop_ratio` is 1.5, but must be in \(0, 1\]"),
        ({"variant": "v", "crop_ratio": 0}, r"`crop_ratio` is 0, but must be in \(0, 1\]"),
        (
            {"variant": "v", "eval_crop": "squash", "crop_ratio": 1.0},
            "`crop_ratio` is 1.0, but `eval_crop` squash does not crop; set only one",
        ),
    ],
)
def test_student_that_cannot_be_is_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        ModelArguments(**options)


def test_config_overrides_are_json_on_the_command_line():
    flags = ["--variant", "deit_tiny_patch16_224", "--config_overrides", '{"hidden_size": 96, "patch_size": [4, 8]}']
    (args,) = HfArgumentParser(ModelArguments).parse_args_into_dataclasses(flags)
    assert args.config_overrides == {"hidden_size": 96, "patch_size": [4, 8]}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "no data is named; set `dataset_name` to a Hub id, a directory or digits, or `train_dir` and"),
        ({"dataset_name": "digits", "train_dir": "x"}, "`dataset_name` is digits, `train_dir` x"),
        ({"dataset_name": "digits", "validation_dir": "x"}, "`validation_dir` x"),
        ({"dataset_name": "digits", "max_train_samples": 0}, "`max_train_samples` is 0, but must be 1 or more"),
        ({"dataset_name": "digits", "max_eval_samples": -1}, "`max_eval_samples` is -1, but must be 1 or more"),
        ({"dataset_name": "x", "num_labels": 1}, "`num_labels` is 1, but must be 2 or more"),
        (
            {"dataset_name": "digits", "streaming": True},
            "`streaming` reads the shards of a dataset, so `dataset_name`",
        ),
        ({"train_dir": "a", "streaming": True}, "or leave `streaming` out"),
        (
            {"train_dir": "a", "validation_dir": "b", "eval_split": "train"},
            "both 'train', but the two folders need different",
        ),
    ],
)
def test_data_that_cannot_be_is_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DataArguments(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"fusion": "softmax"}, "`fusion` is 'softmax', but must be one of logit_mean, softmax_sum"),
        ({"eval_crop": "top"}, "`eval_crop` is 'top', but must be one of center, squash"),
        ({"crop_ratio": 0.0}, r"`crop_ratio` is 0.0, but must be in \(0, 1\]"),
        ({"crop_ratio": 1.0, "eval_crop": "squash"}, "`crop_ratio` is 1.0, but `eval_crop` squash does not crop"),
        ({"batch_size": 0}, "`batch_size` is 0, but must be 1 or more"),
        ({"num_workers": -1}, "`num_workers` is -1, but must be 0 or more"),
    ],
)
def test_evaluation_that_cannot_be_is_refused(options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        EvaluationArguments("model", **options)


@pytest.mark.parametrize("name", ["output", "per_class_file"])
def test_file_to_write_needs_its_folder_before_the_evaluation(tmp_path: Path, name: str):
    EvaluationArguments("model", **{name: str(tmp_path / "x.json")})
    with pytest.raises(FileNotFoundError, match=f"`{name}` is .*, but the folder `.*none` does not exist"):
        EvaluationArguments("model", **{name: str(tmp_path / "none" / "x.json")})


def test_files_of_an_evaluation_and_a_report_are_checked_before_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    with pytest.raises(ValueError, match="`output` and `per_class_file` are both"):
        EvaluationArguments("model", output=str(tmp_path / "x"), per_class_file=str(tmp_path / "x"))
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(PermissionError, match="cannot be written to"):
        ReportArguments(["model"], output=str(tmp_path / "x.html"))


def test_crops_and_fusions_are_choices_on_the_command_line():
    flags = ["--model_name_or_path", "x", "--eval_crop", "squash", "--fusion", "softmax_sum"]
    (args,) = HfArgumentParser(EvaluationArguments).parse_args_into_dataclasses(flags)
    assert (args.eval_crop, args.crop_ratio, args.fusion) == ("squash", None, "softmax_sum")
    (args,) = HfArgumentParser(ModelArguments).parse_args_into_dataclasses(["--variant", "v", "--crop_ratio", "1"])
    assert (args.eval_crop, args.crop_ratio) == (None, 1.0)


@pytest.mark.parametrize(
    ("make", "name", "accepted", "refused"),
    [
        (partial(ModelArguments, model_name_or_path="m"), "image_size", 2, 1),
        (partial(ModelArguments, model_name_or_path="m"), "drop_path_rate", 0.0, 1.0),
        (partial(ModelArguments, model_name_or_path="m"), "crop_ratio", 1.0, 1.01),
        (partial(EvaluationArguments, "m"), "batch_size", 1, 0),
        (partial(EvaluationArguments, "m"), "num_workers", 0, -1),
        (partial(EvaluationArguments, "m"), "crop_ratio", 1.0, 1.01),
        (partial(DataArguments, train_dir="a"), "max_train_samples", 1, 0),
        (partial(DataArguments, train_dir="a", validation_dir="b"), "max_eval_samples", 1, 0),
        (partial(DataArguments, dataset_name="a"), "num_labels", 2, 1),
    ],
)
def test_last_value_of_a_range_is_accepted_and_the_next_one_refused(make, name: str, accepted, refused):
    assert getattr(make(**{name: accepted}), name) == accepted
    with pytest.raises(ValueError, match=f"`{name}` is {refused}, but must be"):
        make(**{name: refused})
