"""The teacher's `dtype` is that of its weights and computations; its logits are always float32."""

from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file
from support.models import NAMES, labels, make_model, save

from deit_hf import DeiTConfig, Teacher

MEAN, STD = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)


@pytest.fixture(params=["transformers", "timm"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A teacher saved in float32."""
    if request.param == "transformers":
        return save(make_model("resnet", DeiTConfig()), tmp_path / "teacher")
    model = timm.create_model("test_resnet", num_classes=len(NAMES))
    save_file(model.state_dict(), tmp_path / "teacher.safetensors")
    return f"timm:test_resnet@{tmp_path / 'teacher.safetensors'}"


@pytest.mark.parametrize("dtype", [None, torch.float32, torch.bfloat16, torch.float64])
def test_teacher_is_loaded_and_computes_in_its_dtype(source: str, toy_images: torch.Tensor, dtype):
    # the statistics differ, so that the pixels are normalised again
    options = {"student_config": DeiTConfig(**labels(NAMES)), "student_mean": MEAN, "student_std": STD}
    teacher = Teacher.from_pretrained(source, dtype=dtype, **options)
    expected = torch.float32 if dtype is None else dtype
    assert {parameter.dtype for parameter in teacher.module.parameters()} == {expected}
    seen = []
    teacher.module.register_forward_pre_hook(lambda module, args: seen.append(args[0].dtype))
    answers = teacher(toy_images)
    assert seen == [expected]
    assert answers.dtype == torch.float32
    in_float32 = Teacher.from_pretrained(source, **options)(toy_images)
    assert torch.equal(answers, in_float32) == (expected == torch.float32)
    torch.testing.assert_close(answers, in_float32, rtol=0.1, atol=0.1)
