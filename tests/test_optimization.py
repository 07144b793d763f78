"""Who decays, and the learning rate at every step: explicit sets and exact values."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher
from deit_hf.optimization import cosine_schedule_with_warmup, decay_parameter_names, scaled_learning_rate, train_only

LAYER = {
    "attention.attention.query.weight",
    "attention.attention.key.weight",
    "attention.attention.value.weight",
    "attention.output.dense.weight",
    "intermediate.dense.weight",
    "output.dense.weight",
}


def encoder_weights(base: str, num_layers: int) -> set[str]:
    layers = {f"{base}.encoder.layer.{i}.{name}" for i in range(num_layers) for name in LAYER}
    return layers | {f"{base}.embeddings.patch_embeddings.projection.weight"}


def test_only_weights_of_the_distilled_model_decay(tiny_config: DeiTConfig):
    # torch's own grouping would decay the class token, the distillation token and the positions
    names = decay_parameter_names(DeiTForImageClassificationWithTeacher(tiny_config))
    assert len(names) == len(set(names))
    assert set(names) == encoder_weights("deit", 3) | {"cls_classifier.weight", "distillation_classifier.weight"}


def test_only_weights_of_the_plain_model_decay(tiny_config: DeiTConfig):
    tiny_config.use_distillation_token = False
    names = decay_parameter_names(DeiTForImageClassification(tiny_config))
    assert set(names) == encoder_weights("vit", 3) | {"classifier.weight"}


def test_what_does_not_decay_is_biases_norms_tokens_and_positions(tiny_config: DeiTConfig):
    model = DeiTForImageClassificationWithTeacher(tiny_config)
    rest = {name for name, _ in model.named_parameters()} - set(decay_parameter_names(model))
    tokens = {f"deit.embeddings.{name}" for name in ("cls_token", "distillation_token", "position_embeddings")}
    assert tokens < rest
    assert all("bias" in name or "layernorm" in name for name in rest - tokens)


def test_kernels_and_timms_tokens_are_known_too():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 2)
            self.norm = nn.BatchNorm2d(4)
            self.pos_embed = nn.Parameter(torch.zeros(1, 5, 4))
            self.dist_token = nn.Parameter(torch.zeros(1, 1, 4))

    assert decay_parameter_names(Net()) == ["conv.weight"]


def test_pattern_that_is_no_regular_expression_is_named():
    with pytest.raises(ValueError, match=r"`train_only` is '\(', which is no regular expression: missing \)"):
        train_only(nn.Linear(2, 2), "(")


@pytest.mark.parametrize(("batch_size", "expected"), [(1024, 1e-3), (512, 5e-4), (64, 6.25e-5)])
def test_learning_rate_scales_with_the_global_batch(batch_size: int, expected: float):
    assert scaled_learning_rate(5e-4, batch_size) == pytest.approx(expected, rel=1e-12)


def learning_rates(num_steps: int, peak: float = 1e-3, **options) -> list[float]:
    """The rate of each step, and the one after the last."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=peak)
    options = {"num_warmup_steps": 0, "warmup_learning_rate": 1e-6, "min_learning_rate": 1e-5, **options}
    schedule = cosine_schedule_with_warmup(optimizer, num_steps=num_steps, **options)
    rates = []
    for _ in range(num_steps + 1):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return rates


def test_warm_up_is_a_line_and_the_rest_a_cosine():
    rates = learning_rates(110, num_warmup_steps=10)
    assert rates[0] == pytest.approx(1e-6, rel=1e-9)
    assert rates[5] == pytest.approx((1e-6 + 1e-3) / 2, rel=1e-9)
    assert rates[10] == pytest.approx(1e-3, rel=1e-9)
    assert rates[35] == pytest.approx(1e-5 + (1e-3 - 1e-5) * (1 + math.sqrt(0.5)) / 2, rel=1e-9)
    assert rates[60] == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-9)
    assert rates[110] == pytest.approx(1e-5, rel=1e-9)


def test_without_warm_up_the_first_step_has_the_peak():
    rates = learning_rates(4)
    assert rates[0] == pytest.approx(1e-3, rel=1e-9)
    assert rates[2] == pytest.approx((1e-3 + 1e-5) / 2, rel=1e-9)


def test_minimum_above_the_peak_gives_a_constant_rate():
    # the 384 fine-tuning of the paper has both at 5e-6; a rate that rises at the end would undo it
    assert learning_rates(10, peak=5e-6, num_warmup_steps=2)[2:] == pytest.approx([5e-6] * 9, rel=1e-12)


def test_each_group_follows_from_its_own_peak():
    groups = [{"params": [nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1e-3, 1e-4)]
    optimizer = torch.optim.SGD(groups)
    schedule = cosine_schedule_with_warmup(
        optimizer, num_warmup_steps=0, num_steps=2, warmup_learning_rate=0.0, min_learning_rate=0.0
    )
    optimizer.step()
    schedule.step()
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([5e-4, 5e-5], rel=1e-12)


@given(
    num_steps=st.integers(1, 60),
    num_warmup_steps=st.integers(0, 80),
    peak=st.sampled_from([1e-3, 5e-6, 1e-7, 0.0]),
    min_learning_rate=st.sampled_from([0.0, 1e-5, 1.0]),
)
@settings(max_examples=60, deadline=None)
def test_rate_rises_to_the_peak_then_falls_and_stays_between_minimum_and_peak(
    num_steps: int, num_warmup_steps: int, peak: float, min_learning_rate: float
):
    options = {"num_warmup_steps": num_warmup_steps, "min_learning_rate": min_learning_rate}
    rates = learning_rates(num_steps, peak, **options)
    tolerance = peak * 1e-9
    lowest = min(1e-6 if num_warmup_steps else peak, min_learning_rate, peak)
    assert all(lowest - tolerance <= rate <= peak + tolerance for rate in rates)
    turn = min(num_warmup_steps, num_steps)
    steps = [after - before for before, after in zip(rates, rates[1:], strict=False)]
    assert all(step >= -tolerance for step in steps[:turn])
    assert all(step <= tolerance for step in steps[turn:])
