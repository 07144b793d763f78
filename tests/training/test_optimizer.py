"""Which parameters have weight decay, and the learning rate at every step: explicit sets and exact values."""

import logging
import math

import pytest
import timm
import timm.optim
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.scheduler import CosineLRScheduler
from torch import nn
from transformers import (
    ConvNextConfig,
    ConvNextForImageClassification,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    ViTConfig,
    ViTForImageClassification,
)

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher
from deit_hf.model.conversion import name_table
from deit_hf.training.global_batch import scaled_learning_rate, warn_of_global_batch
from deit_hf.training.optimizer import (
    decay_parameter_names,
    layer_numbers,
    parameter_groups,
    train_only,
)
from deit_hf.training.schedule import cosine_schedule_with_warmup
from deit_hf.training.timm_optimizers import check_timm_optimizer, create_timm_optimizer

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


def build_variant(name: str) -> nn.Module:
    """Returns a published model on the meta device, without memory for its weights."""
    config = DeiTConfig.from_variant(name)
    model_class = DeiTForImageClassificationWithTeacher if "distilled" in name else DeiTForImageClassification
    with torch.device("meta"):
        return model_class(config)


VARIANTS = {
    "deit_tiny_distilled_patch16_224": ("deit", {"cls_classifier.weight", "distillation_classifier.weight"}),
    "deit_base_patch16_224": ("vit", {"classifier.weight"}),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_parameter_is_in_the_group_that_its_name_says(variant: str):
    # the usual grouping would decay the class token, the distillation token and the positions
    base, heads = VARIANTS[variant]
    model = build_variant(variant)
    decaying, exempt = parameter_groups(model, learning_rate=1e-3, weight_decay=0.05, layer_decay=1.0)
    names = {parameter: name for name, parameter in model.named_parameters()}
    assert {names[parameter] for parameter in decaying["params"]} == encoder_weights(base, 12) | heads
    rest = {names[parameter] for parameter in exempt["params"]}
    assert rest == set(names.values()) - encoder_weights(base, 12) - heads
    tokens = {name for name in rest if name.endswith(("_token", "position_embeddings"))}
    assert len(tokens) == (3 if base == "deit" else 2)
    assert all("bias" in name or "layernorm" in name for name in rest - tokens)
    assert (decaying["weight_decay"], exempt["weight_decay"]) == (0.05, 0.0)
    assert (decaying["lr"], exempt["lr"]) == (1e-3, 1e-3)


@pytest.mark.parametrize("variant", VARIANTS)
def test_rate_and_decay_of_every_parameter_are_timms_with_layer_decay(variant: str):
    source = timm.create_model(variant, embed_dim=24, num_heads=3)
    options = {"weight_decay": 0.05, "layer_decay": 0.75}
    groups = timm.optim.param_groups_layer_decay(source, no_weight_decay_list=source.no_weight_decay(), **options)
    names = {parameter: name for name, parameter in source.named_parameters()}
    timms = {names[p]: (g["lr_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    model = build_variant(variant)
    table = name_table(model.config)
    expected = {name: timms[official] for official, ours in table.items() for name in ours}

    groups = parameter_groups(model, learning_rate=2.0, **options)
    names = {parameter: name for name, parameter in model.named_parameters()}
    found = {names[p]: (g["learning_rate_scale"], g["weight_decay"]) for g in groups for p in g["params"]}
    assert set(found) == set(expected)
    assert {name for name in found if found[name] != pytest.approx(expected[name], rel=1e-12)} == set()
    assert all(group["lr"] == 2.0 * group["learning_rate_scale"] for group in groups)
    assert groups[0]["learning_rate_scale"] == 1.0  # `Trainer` logs the learning rate of this group


def test_frozen_parameters_are_in_no_group(tiny_student):
    train_only(tiny_student, "layer.1.attention")
    groups = parameter_groups(tiny_student, learning_rate=1.0, weight_decay=0.05, layer_decay=0.5)
    assert [group["learning_rate_scale"] for group in groups] == [0.25, 0.25]  # below layer 2 and the heads
    trained = {id(p) for p in tiny_student.parameters() if p.requires_grad}
    assert {id(p) for group in groups for p in group["params"]} == trained


def test_layers_of_transformers_own_vit_are_known():
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 2}
    numbers = layer_numbers(ViTForImageClassification(ViTConfig(**sizes)))
    expected = {"vit.embeddings.": 0, "vit.layers.0.": 1, "vit.layers.1.": 2, "vit.layernorm.": 2, "classifier.": 3}
    assert set(numbers.values()) == set(expected.values())
    assert all(
        numbers[name] == layer for name in numbers for start, layer in expected.items() if name.startswith(start)
    )


def test_model_of_other_layers_is_refused_by_name(tiny_student):
    # a layer that is mistaken for another one would train at a wrong learning rate without an error
    options = {"learning_rate": 1.0, "weight_decay": 0.0, "layer_decay": 0.9}
    convnet = ConvNextForImageClassification(ConvNextConfig(hidden_sizes=[4, 4, 4, 4], depths=[1, 1, 1, 1]))
    message = "needs the layers of a DeiT or ViT, but `{}` of {} is in none of them; set `layer_decay` to 1"
    with pytest.raises(ValueError, match=message.format("convnext.*", "ConvNextForImageClassification")):
        parameter_groups(convnet, **options)
    tiny_student.adapter = nn.Linear(2, 2)
    with pytest.raises(ValueError, match=message.format("adapter.weight", "DeiTForImageClassificationWithTeacher")):
        parameter_groups(tiny_student, **options)


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
    with pytest.raises(ValueError, match=r"`train_only` is '\(', which is not a regular expression: missing \)"):
        train_only(nn.Linear(2, 2), "(")


def test_pattern_of_attention_and_heads_trains_exactly_these(tiny_student):
    # arXiv:2203.09795; `attention` must not match norms, and the second head must be trained, too
    train_only(tiny_student, "attention|classifier")
    parts = [f"attention.attention.{part}" for part in ("query", "key", "value")] + ["attention.output.dense"]
    layers = {f"deit.encoder.layer.{i}.{part}" for i in range(3) for part in parts}
    modules = layers | {"cls_classifier", "distillation_classifier"}
    expected = {f"{module}.{kind}" for module in modules for kind in ("weight", "bias")}
    assert {name for name, parameter in tiny_student.named_parameters() if parameter.requires_grad} == expected


# ---- timm's optimizers ----


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("lam", "did you mean lamb"),
        ("qqqq", "DeiT's transfer used sgd"),
        ("adahessian", "is not an optimizer of timm that can"),
    ],
)
def test_name_that_is_no_optimizer_of_timm_is_refused_with_the_closest(name: str, hint: str):
    with pytest.raises(ValueError, match=f"`timm_optimizer` is '{name}', which .*{hint}"):
        check_timm_optimizer(name)


def test_sgd_takes_the_steps_of_nesterov_momentum_with_each_groups_rate_and_decay():
    # the transfer recipes: momentum 0.9, weight decay added to the gradient; computed by hand in float64
    weights = [nn.Parameter(torch.tensor([2.0], dtype=torch.float64)) for _ in range(2)]
    groups = [
        {"params": [weights[0]], "lr": 0.1, "weight_decay": 0.5},
        {"params": [weights[1]], "lr": 0.2, "weight_decay": 0.0},
    ]
    optimizer = create_timm_optimizer("sgd", groups, betas=(0.9, 0.999), eps=1e-8)
    expected = [2.0, 2.0]
    velocity = [0.0, 0.0]
    for _ in range(3):
        for i, (rate, decay) in enumerate([(0.1, 0.5), (0.2, 0.0)]):
            gradient = 3.0 + decay * expected[i]
            velocity[i] = 0.9 * velocity[i] + gradient
            expected[i] -= rate * (gradient + 0.9 * velocity[i])
        optimizer.zero_grad()
        (3 * weights[0] + 3 * weights[1]).backward()
        optimizer.step()
    assert [weight.item() for weight in weights] == pytest.approx(expected, rel=1e-12)


def test_lamb_gets_the_options_of_the_official_code():
    groups = [{"params": [nn.Parameter(torch.zeros(2, 2))], "lr": 3e-3, "weight_decay": 0.02}]
    optimizer = create_timm_optimizer("lamb", groups, betas=(0.9, 0.999), eps=1e-8)
    assert type(optimizer) is timm.optim.Lamb
    group = optimizer.param_groups[0]
    assert (group["lr"], group["weight_decay"], group["eps"]) == (3e-3, 0.02, 1e-8)  # timm's own eps is 1e-6


@pytest.mark.parametrize(("betas", "expected"), [((0.9, 0.999), (0.9, 0.99)), ((0.8, 0.95), (0.8, 0.95))])
def test_betas_that_nobody_changed_leave_an_optimizer_its_own(betas: tuple, expected: tuple):
    groups = [{"params": [nn.Parameter(torch.zeros(2))], "lr": 1e-4, "weight_decay": 0.0}]
    assert create_timm_optimizer("lion", groups, betas=betas, eps=1e-8).param_groups[0]["betas"] == expected


# ---- the batch ----


def warning_for(
    caplog: pytest.LogCaptureFixture, config, global_batch_size: int, num_accumulation_steps: int = 1
) -> str:
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        sizes = {"global_batch_size": global_batch_size, "num_accumulation_steps": num_accumulation_steps}
        warn_of_global_batch(config, **sizes)
    return caplog.text


@pytest.mark.parametrize(
    ("global_batch_size", "num_accumulation_steps", "advice"),
    [
        (512, 1, "set `gradient_accumulation_steps` to 2"),
        (256, 4, "set `gradient_accumulation_steps` to 16"),
        (480, 1, "choose `per_device_train_batch_size` x processes x `gradient_accumulation_steps` to equal that"),
        (4096, 2, "choose `per_device_train_batch_size` x processes"),
    ],
)
def test_other_batch_than_the_papers_warns_for_the_base_size(
    caplog, global_batch_size: int, num_accumulation_steps: int, advice: str
):
    config = DeiTConfig.from_variant("deit_base_patch16_224")
    text = warning_for(caplog, config, global_batch_size, num_accumulation_steps)
    assert (
        f"the global batch is {global_batch_size} images, but the paper's results for the base size need 1024" in text
    )
    assert advice in text


def test_no_warning_for_the_papers_batch_other_sizes_and_fine_tuning(caplog):
    base = DeiTConfig.from_variant("deit_base_distilled_patch16_224")
    assert warning_for(caplog, base, 1024, 8) == ""
    assert warning_for(caplog, DeiTConfig.from_variant("deit_small_patch16_224"), 512) == ""
    assert warning_for(caplog, ViTConfig(), 512) == ""  # of the same width, but not a DeiT
    base.name_or_path = "facebook/deit-base-distilled-patch16-224"
    assert warning_for(caplog, base, 512) == ""


@pytest.mark.parametrize(("batch_size", "expected"), [(1024, 1e-3), (512, 5e-4), (64, 6.25e-5)])
def test_learning_rate_scales_with_the_global_batch(batch_size: int, expected: float):
    assert scaled_learning_rate(5e-4, batch_size) == pytest.approx(expected, rel=1e-12)


def learning_rates(num_steps: int, peak: float = 1e-3, **options) -> list[float]:
    """Returns the learning rate of each step, and the one after the last step."""
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
    # in the paper's fine-tuning at 384 both are 5e-6; the learning rate must not rise at the end
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


def official_rates(num_epochs: int, **options) -> list[float]:
    """Returns the learning rate of each epoch in the official main.py, which calls `step(epoch)` after the epoch."""
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1e-3)
    schedule = CosineLRScheduler(optimizer, t_initial=num_epochs, lr_min=1e-5, **options)
    rates = []
    for epoch in range(num_epochs):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step(epoch)
    return rates


@pytest.mark.parametrize("warmup_epochs", [5, 0])
def test_official_stepping_is_timms_schedule_in_the_official_loop(warmup_epochs: int):
    steps_in_epoch = 3
    expected = official_rates(300, warmup_t=warmup_epochs, warmup_lr_init=1e-6)
    options = {"num_warmup_steps": warmup_epochs * steps_in_epoch, "official_steps_in_epoch": steps_in_epoch}
    rates = learning_rates(300 * steps_in_epoch, **options)
    assert rates[:-1] == pytest.approx([rate for rate in expected for _ in range(steps_in_epoch)], rel=1e-12)
    if warmup_epochs:
        assert expected[:2] == [1e-6, 1e-6]  # one epoch late
        assert expected[2] > 1e-4


@pytest.mark.parametrize("official_steps_in_epoch", [None, 4])
def test_groups_keep_their_ratios_in_warm_up_and_at_the_end(official_steps_in_epoch: int | None):
    # timm, too, multiplies the learning rate of its schedule, with minimum and warm-up, by the scale of a group;
    # the first group is not the one with scale 1
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))], "lr": 1e-3 * scale, "learning_rate_scale": scale}
        for scale in (0.25, 1.0)
    ]
    options = {"num_warmup_steps": 8, "num_steps": 40, "warmup_learning_rate": 1e-6, "min_learning_rate": 1e-5}
    options["official_steps_in_epoch"] = official_steps_in_epoch
    optimizer = torch.optim.SGD(groups)
    schedule = cosine_schedule_with_warmup(optimizer, **options)
    expected = learning_rates(**options)
    for rate in expected:
        assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.25 * rate, rate], rel=1e-12)
        optimizer.step()
        schedule.step()


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


@pytest.mark.parametrize("name", ["resnet18", "vit_tiny_patch16_224", "efficientnet_b0"])
def test_head_trains_the_classifier_whatever_its_name(name: str):
    """timm calls it `fc`, `head` or `classifier`; fails if `head` is searched for in the names."""
    config = TimmWrapperConfig(architecture=name, num_labels=3)
    model = TimmWrapperForImageClassification(config)
    train_only(model, "head")
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    classifier = {id(parameter) for parameter in model.timm_model.get_classifier().parameters()}
    assert trained == {name for name, parameter in model.named_parameters() if id(parameter) in classifier}
    assert len(trained) == 2


def test_head_trains_both_heads_of_a_distilled_deit(tiny_student):
    train_only(tiny_student, "head")
    trained = {name for name, parameter in tiny_student.named_parameters() if parameter.requires_grad}
    assert trained == {f"{head}_classifier.{kind}" for head in ("cls", "distillation") for kind in ("weight", "bias")}
