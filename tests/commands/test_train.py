"""What a training refuses before it loads anything."""

from pathlib import Path

import pytest

from deit_hf import DistillationArguments
from deit_hf.commands.train import train
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments


@pytest.mark.parametrize(
    ("option", "value"), [("num_streams", 2), ("num_train_samples", 9), ("shuffle_buffer_size", 9)]
)
def test_options_of_a_stream_are_refused_without_one(tmp_path: Path, option: str, value: int):
    model_args, data_args = ModelArguments(variant="deit_tiny_patch16_224"), DataArguments(dataset_name="digits")
    with pytest.raises(ValueError, match=f"`{option}` is {value}, which is for a stream; add `--streaming true`"):
        train(model_args, data_args, DistillationArguments(str(tmp_path / "run"), **{option: value}))


@pytest.mark.parametrize(
    ("teacher", "kind"), [("somewhere/teacher", "none"), (None, "hard")], ids=["not used", "missing"]
)
def test_teacher_and_what_to_learn_from_it_go_together(tmp_path: Path, teacher: str | None, kind: str):
    """Red when a run finds out only after it has loaded everything; nothing here could be loaded."""
    model_args = ModelArguments(variant="deit_tiny_patch16_224", teacher_model_name_or_path=teacher)
    args = DistillationArguments(str(tmp_path / "run"), report_to="none", distillation_type=kind)
    with pytest.raises(
        ValueError, match=f"`teacher_model_name_or_path` is {teacher} and `distillation_type` '{kind}'"
    ):
        train(model_args, DataArguments(dataset_name="nobody/nothing"), args)
