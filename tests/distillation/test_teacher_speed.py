"""A compiled teacher and one with channels-last: the same answers, and a layout that is chosen by measuring."""

import pytest
import timm
import torch

from deit_hf import Teacher
from deit_hf.distillation import teacher_speed
from deit_hf.distillation.teacher_speed import choose_layout, compile_teacher
from deit_hf.training.same_run import teacher_fingerprint


@pytest.fixture
def teacher() -> Teacher:
    torch.manual_seed(0)
    return Teacher(timm.create_model("test_resnet", num_classes=5))


@pytest.mark.parametrize("wins", [torch.contiguous_format, torch.channels_last])
def test_the_faster_layout_is_used(teacher: Teacher, wins, monkeypatch, caplog):
    monkeypatch.setattr(
        teacher_speed, "_seconds_per_step", lambda teacher, _: 0.001 if teacher.layout is wins else 0.003
    )
    pixels = torch.randn(4, 3, 160, 160)
    before, identity = teacher(pixels), teacher_fingerprint(teacher)
    choose_layout(teacher, pixels)
    assert teacher.layout is wins
    weight = next(each for each in teacher.module.parameters() if each.ndim == 4 and each.shape[1] > 1)
    assert weight.is_contiguous(memory_format=wins)
    times = "1.0 ms for a batch of 4, with channels-last 3.0 ms: channels-last is not used"
    if wins is torch.channels_last:
        times = "3.0 ms for a batch of 4, with channels-last 1.0 ms: channels-last is used"
    assert times in caplog.text
    torch.testing.assert_close(teacher(pixels), before, rtol=1e-4, atol=1e-5)
    assert teacher_fingerprint(teacher) == identity


def test_measuring_calls_the_teacher_at_most_22_times(teacher: Teacher, monkeypatch):
    calls = []
    monkeypatch.setattr(
        teacher.module, "forward", lambda pixels: calls.append(len(pixels)) or torch.zeros(len(pixels), 5)
    )
    assert teacher_speed._seconds_per_step(teacher, torch.zeros(3, 3, 8, 8)) > 0
    assert calls == [3] * 22


@pytest.mark.slow
def test_compiling_keeps_the_names_of_the_weights(teacher: Teacher, monkeypatch):
    identity = teacher_fingerprint(teacher)
    compile_teacher(teacher)
    assert teacher.module._compiled_call_impl is not None
    assert teacher_fingerprint(teacher) == identity


def test_pixels_of_the_same_statistics_are_not_changed(teacher: Teacher, monkeypatch):
    seen = []
    same = {"mean": teacher.student_mean, "std": teacher.student_std, "image_size": 8}
    teacher = Teacher(teacher.module, **same)
    monkeypatch.setattr(teacher.module, "forward", lambda pixels: seen.append(pixels) or torch.zeros(len(pixels), 5))
    pixels = torch.randn(2, 3, 8, 8)
    teacher(pixels)
    assert seen[0] is pixels
