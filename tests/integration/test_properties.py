"""Properties that hold for all values: view order, mixing, resume, losses, averages, options, label matching."""

import json
import math
import random
from fractions import Fraction

import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import prepare_data_loader
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from deit_hf import DeiTConfig, DeiTForImageClassification, DistillationArguments, Teacher
from deit_hf.data.mixing import Draw, Mixing, mix_targets
from deit_hf.data.sampling import ViewKey, ViewSampler
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.transforms import RANDOM_AUGMENT_POLICY
from deit_hf.distillation.losses import distillation_objective, hard_distillation_loss, soft_distillation_loss
from deit_hf.model.arguments import ModelArguments
from deit_hf.reliability.step_outcome import StepOutcome
from deit_hf.training.ema import AveragedWeights
from deit_hf.training.global_batch import scaled_learning_rate
from deit_hf.training.recipe_file import parse_recipe, write_recipe
from deit_hf.training.schedule import cosine_schedule_with_warmup

settings.register_profile(
    "properties",
    derandomize=True,  # the same examples every time, so that a failing test keeps failing
    deadline=None,
    max_examples=40,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
PROPERTIES = settings.get_profile("properties")
FEW = settings(PROPERTIES, max_examples=15)
SEEDS = st.integers(0, 2**31 - 1)


# ---- the order of views ----

samplers = st.builds(
    ViewSampler,
    st.integers(1, 150),
    step_size=st.integers(1, 24).map(lambda n: 2 * n),
    num_repeats=st.integers(1, 5),
    seed=SEEDS,
)


class Keys(Dataset):
    """A dataset that returns the key itself."""

    def __getitem__(self, key: ViewKey) -> ViewKey:
        return key


def loader_of(sampler: ViewSampler, *, batch_size: int, num_processes: int = 1, rank: int = 0) -> DataLoader:
    loader = DataLoader(Keys(), sampler=sampler, batch_size=batch_size, collate_fn=list)
    return prepare_data_loader(loader, num_processes=num_processes, process_index=rank, put_on_device=False)


@given(samplers, st.integers(0, 50))
@PROPERTIES
def test_epoch_is_whole_steps_that_show_each_view_once(sampler: ViewSampler, epoch: int):
    sampler.set_epoch(epoch)
    keys = list(sampler)
    assert [key.position for key in keys] == list(range(len(sampler)))
    assert len(sampler) % sampler.step_size == 0
    assert len({(key.sample, key.repeat) for key in keys}) == len(keys)
    assert len({key.sample for key in keys}) == sampler.num_unique_images
    assert {key.epoch for key in keys} == {epoch}
    if sampler.num_repeats == 1 and len(keys) == sampler.num_images:
        assert sorted(key.sample for key in keys) == list(range(sampler.num_images))


@given(samplers)
@PROPERTIES
def test_repeats_of_an_image_lie_in_one_step_or_two_neighbours(sampler: ViewSampler):
    # in two steps if the step size is not a multiple of the repeats, or if images are taken in pairs
    steps: dict[int, set[int]] = {}
    for key in sampler:
        steps.setdefault(key.sample, set()).add(key.position // sampler.step_size)
    if sampler.num_images >= sampler.step_size:
        in_one_step = sampler.step_size % sampler.num_repeats == 0 and not sampler.takes_images_in_pairs
        assert all(
            max(s) - min(s) <= (0 if in_one_step else 1) or sampler.num_repeats > sampler.step_size
            for s in steps.values()
        )


@given(samplers, st.sampled_from([1, 2, 3, 4, 6]), st.integers(1, 3), st.integers(0, 3))
@PROPERTIES
def test_processes_share_an_epoch_without_loss_however_it_is_cut(sampler, num_processes, accumulation, epoch):
    batch_size = max(1, sampler.step_size // (num_processes * accumulation))
    sampler.step_size = batch_size * num_processes * accumulation
    sampler.set_epoch(epoch)
    ranks = [
        list(loader_of(sampler, batch_size=batch_size, num_processes=num_processes, rank=rank))
        for rank in range(num_processes)
    ]
    together = [key for batches in zip(*ranks, strict=True) for batch in batches for key in batch]
    assert together == list(sampler)


# ---- resume ----


@given(samplers, st.integers(1, 4), st.integers(1, 3), st.data())
@PROPERTIES
def test_skipping_steps_gives_the_keys_of_a_training_without_stop(sampler, accumulation, num_epochs, data):
    batch_size = max(1, sampler.step_size // accumulation)
    sampler.step_size = batch_size * accumulation
    num_steps = len(sampler) // sampler.step_size

    def batches(epoch: int, skipped_steps: int = 0) -> list[list[ViewKey]]:
        sampler.set_epoch(epoch)
        loader = loader_of(sampler, batch_size=batch_size)
        return list(skip_first_batches(loader, skipped_steps * accumulation) if skipped_steps else loader)

    whole = [batch for epoch in range(num_epochs) for batch in batches(epoch)]
    stop = data.draw(st.integers(0, num_epochs * num_steps - 1), label="steps before the stop")
    epoch, steps_in_epoch = divmod(stop, num_steps)
    rest = batches(epoch, steps_in_epoch) + [
        batch for later in range(epoch + 1, num_epochs) for batch in batches(later)
    ]
    assert rest == whole[stop * accumulation :]


@given(
    st.integers(1, 200),
    st.integers(0, 60),
    st.floats(1e-5, 1.0),
    st.floats(0, 1e-2),
    st.floats(0, 1e-2),
    st.none() | st.integers(1, 30),
    st.data(),
)
@PROPERTIES
def test_rate_at_a_step_does_not_depend_on_how_one_got_there(num_steps, warmup, peak, first, last, in_epoch, data):
    def schedule():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=peak)
        return cosine_schedule_with_warmup(
            optimizer,
            num_warmup_steps=warmup,
            num_steps=num_steps,
            warmup_learning_rate=first,
            min_learning_rate=last,
            official_steps_in_epoch=in_epoch,
        )

    stop = data.draw(st.integers(0, num_steps))
    walked = schedule()
    for _ in range(stop):
        walked.optimizer.step()
        walked.step()
    resumed = schedule()
    resumed.load_state_dict(walked.state_dict())
    formula = peak * schedule().lr_lambdas[0](stop)
    assert walked.get_last_lr()[0] == resumed.get_last_lr()[0] == pytest.approx(formula, rel=1e-12)
    assert min(first, last, peak) - 1e-12 <= formula <= peak + 1e-12


# ---- mixing ----

mixings = st.builds(
    Mixing,
    mixup_alpha=st.floats(0.05, 5),
    cutmix_alpha=st.floats(0.05, 5),
    switch_prob=st.floats(0, 1),
    block_size=st.integers(1, 8).map(lambda n: 2 * n),
    seed=SEEDS,
)


@given(mixings, st.integers(1, 12), st.integers(0, 3), st.integers(2, 9), st.integers(2, 9), SEEDS)
@PROPERTIES
def test_mixing_is_a_function_of_positions_however_the_epoch_is_cut(mixing, num_pairs, epoch, height, width, seed):
    images = torch.rand(2 * num_pairs, 1, height, width, generator=torch.Generator().manual_seed(seed))
    labels = torch.arange(2 * num_pairs) % 5

    def mixed(cuts: list[int]) -> tuple[Tensor, Tensor]:
        pixels, targets = [], []
        for start, stop in zip([0, *cuts], [*cuts, 2 * num_pairs], strict=True):
            batch, ratios = mixing(images[start:stop], epoch, range(start, stop))
            pixels.append(batch)
            targets.append(mix_targets(labels[start:stop], ratios, num_classes=5, smoothing=0.1))
        return torch.cat(pixels), torch.cat(targets)

    cuts = sorted(random.Random(seed).sample(range(2, 2 * num_pairs, 2), k=(num_pairs - 1) // 2))
    (pixels, targets), (other_pixels, other_targets) = mixed([]), mixed(cuts)
    assert torch.equal(pixels, other_pixels)
    assert torch.equal(targets, other_targets)
    torch.testing.assert_close(targets.sum(dim=1), torch.ones(2 * num_pairs))
    assert targets.min() >= 0


@given(mixings, st.integers(0, 100), st.integers(0, 100), st.integers(1, 40), st.integers(1, 40))
@PROPERTIES
def test_ratio_is_the_share_of_pixels_that_were_kept(mixing: Mixing, epoch: int, block: int, height: int, width: int):
    draw = mixing.draw(epoch, block, (height, width))
    assert isinstance(draw, Draw)
    assert 0 <= draw.ratio <= 1
    if draw.box is not None:
        own, partner = torch.zeros(1, 1, height, width), torch.ones(1, 1, height, width)
        only = Mixing(0.0, mixing.cutmix_alpha, 1.0, 2, mixing.seed)
        cut = only.draw(epoch, block, (height, width))
        mixed, ratios = only(torch.cat([own, partner]), epoch, [2 * block, 2 * block + 1])
        assert 1 - mixed[0].mean().item() == pytest.approx(ratios[0].item(), abs=1e-6)
        assert ratios[0].item() == pytest.approx(cut.ratio, abs=1e-6)
        assert mixed[1].mean().item() == pytest.approx(ratios[1].item(), abs=1e-6)


@given(st.integers(1, 9), st.integers(2, 9), st.floats(0, 0.99), SEEDS)
@PROPERTIES
def test_targets_are_the_smoothed_rows_that_torch_would_give(num_pairs, num_classes, smoothing, seed):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (2 * num_pairs,), generator=generator)
    ratios = torch.rand(2 * num_pairs, generator=generator)
    logits = torch.randn(2 * num_pairs, num_classes, generator=generator)
    targets = mix_targets(labels, ratios, num_classes=num_classes, smoothing=smoothing)
    partners = labels[torch.arange(2 * num_pairs) ^ 1]

    def loss(of: Tensor) -> Tensor:
        return F.cross_entropy(logits, of, label_smoothing=smoothing, reduction="none")

    expected = ratios * loss(labels) + (1 - ratios) * loss(partners)
    torch.testing.assert_close(F.cross_entropy(logits, targets, reduction="none"), expected, rtol=1e-4, atol=1e-5)


# ---- losses ----


@st.composite
def logit_pairs(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Logits of student and teacher, (B, C) in float64."""
    shape = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(draw(SEEDS))
    scale = draw(st.floats(0.1, 20))
    pair = torch.randn(2, *shape, dtype=torch.float64, generator=generator) * scale
    return pair[0], pair[1]


temperatures = st.floats(0.5, 10)


@given(logit_pairs(), temperatures, st.floats(-50, 50), st.sampled_from(["batchmean", "numel"]))
@PROPERTIES
def test_soft_loss_is_scaled_divergence_and_blind_to_constants(logits, temperature, constant, reduction):
    student, teacher = logits
    loss = soft_distillation_loss(student, teacher, temperature=temperature, reduction=reduction)
    p, q = (torch.softmax(x / temperature, dim=-1) for x in (teacher, student))
    divergence = (p * (p.log() - q.log())).sum() / (len(p) if reduction == "batchmean" else p.numel())
    assert loss.item() == pytest.approx(temperature**2 * divergence.item(), rel=1e-7, abs=1e-9)
    assert loss.item() >= -1e-12
    options = {"temperature": temperature, "reduction": reduction}
    shifted = soft_distillation_loss(student + constant, teacher - constant, **options)
    assert shifted.item() == pytest.approx(loss.item(), rel=1e-7, abs=1e-9)
    same = soft_distillation_loss(student, student + constant, **options)
    assert same.item() == pytest.approx(0, abs=1e-9)


@given(logit_pairs(), temperatures)
@FEW
def test_gradient_of_the_soft_loss_is_that_of_finite_differences(logits, temperature):
    student, teacher = logits
    assert torch.autograd.gradcheck(
        lambda x: soft_distillation_loss(x, teacher, temperature=temperature), student.requires_grad_()
    )


@given(logit_pairs(), st.floats(0, 1))
@PROPERTIES
def test_hard_loss_is_cross_entropy_with_the_decision(logits, weight):
    student, teacher = logits
    decisions = teacher.argmax(dim=-1)
    loss = hard_distillation_loss(student, teacher)
    expected = -student.log_softmax(dim=-1)[torch.arange(len(student)), decisions].mean()
    assert loss.item() == pytest.approx(expected.item(), rel=1e-9)
    targets = F.one_hot(decisions, student.shape[1]).double()
    options = {"distillation_type": "hard", "weight": weight, "temperature": 1.0}
    terms = distillation_objective(student, None, targets, teacher, **options)
    assert terms.loss.item() == pytest.approx(expected.item(), rel=1e-9)  # both terms have the same target


# ---- averages and rates ----


@given(st.floats(0, 0.9999), st.lists(st.floats(-3, 3, width=32), min_size=1, max_size=12), st.booleans())
@FEW
def test_average_is_the_weighted_sum_of_all_weights(decay: float, values: list[float], warmup: bool):
    module = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(module.weight, 5.0)
    averages = AveragedWeights(decay, warmup=warmup, outcome=StepOutcome())
    averages.start(module)
    expected = Fraction(5)
    for n, value in enumerate(values):
        torch.nn.init.constant_(module.weight, value)
        averages.update(module)
        d = min(Fraction(decay), Fraction(n, n + 9)) if warmup else Fraction(decay)
        expected = d * expected + (1 - d) * Fraction(value)
    assert averages.model.weight.item() == pytest.approx(float(expected), abs=1e-5)


@given(st.floats(1e-6, 1), st.integers(1, 10_000), st.integers(1, 16))
@PROPERTIES
def test_rate_grows_with_the_batch(base: float, batch: int, factor: int):
    assert scaled_learning_rate(base, 512) == pytest.approx(base)
    assert scaled_learning_rate(base, factor * batch) == pytest.approx(factor * scaled_learning_rate(base, batch))


# ---- configurations and options ----


@st.composite
def some_of(draw: st.DrawFn, values: dict[str, st.SearchStrategy]) -> dict:
    """Values for at most three fields; with more, hardly any combination would be valid."""
    names = draw(st.lists(st.sampled_from(sorted(values)), max_size=3, unique=True))
    return {name: draw(values[name]) for name in names}


config_fields = some_of(
    {
        "image_size": st.sampled_from([8, 16, (8, 16), [16, 8], 0, -8, 7, "big", None, 8.0, (8,), (8, 8, 8), True]),
        "patch_size": st.sampled_from([4, 8, (4, 8), 0, -4, (0, 4), 32, "4", None]),
        "hidden_size": st.sampled_from([8, 12, 7, 0, -8, 8.5, None]),
        "num_attention_heads": st.sampled_from([1, 2, 3, 0, -1, None]),
        "num_hidden_layers": st.sampled_from([1, 2, 0, -1, 1.5]),
        "intermediate_size": st.sampled_from([8, 0, -1, "x"]),
        "num_channels": st.sampled_from([1, 3, 0, -3]),
        "num_labels": st.sampled_from([0, 1, 2, 5, -1, "a"]),
        "drop_path_rate": st.sampled_from([0, 0.1, 1, -0.1, math.nan, "high"]),
        "hidden_dropout_prob": st.sampled_from([0.0, 0.5, -1.0, 1.5]),
        "attention_probs_dropout_prob": st.sampled_from([0.0, 0.5, -1.0, 2.0]),
        "layer_norm_eps": st.sampled_from([1e-6, 1e-12, 0.0, -1.0]),
        "initializer_range": st.sampled_from([0.02, 0.0, -0.1]),
        "hidden_act": st.sampled_from(["gelu", "relu", "none"]),
        "qkv_bias": st.booleans(),
        "use_distillation_token": st.booleans(),
        "problem_type": st.sampled_from([None, "regression", "single_label_classification"]),
    },
)
SMALL = {"image_size": 16, "patch_size": 8, "hidden_size": 12, "num_attention_heads": 2, "num_hidden_layers": 1}
SMALL |= {"intermediate_size": 16, "num_labels": 3}


@given(config_fields)
@settings(PROPERTIES, max_examples=150)
def test_configuration_builds_a_model_or_is_refused_by_the_name_of_a_field(fields: dict):
    try:
        config = DeiTConfig(**{**SMALL, **fields})
    except (ValueError, TypeError) as error:
        refused = str(error)
    else:
        refused = None
    if refused is not None:
        values = {**SMALL, **fields}
        named = [name for name in values if name in refused]
        assert named, refused
        assert any(str(values[name]) in refused for name in named), refused
        return
    model = DeiTForImageClassification(config).eval()
    height, width = config.image_size if isinstance(config.image_size, list | tuple) else (config.image_size,) * 2
    logits = model(torch.zeros(1, config.num_channels, height, width)).logits
    assert logits.shape == (1, config.num_labels or config.hidden_size)
    again = DeiTConfig.from_dict(json.loads(config.to_json_string(use_diff=False)))
    assert again.to_dict() == config.to_dict()


NUMBERS = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0, math.nan, math.inf])
training_options = some_of(
    {
        "distillation_type": st.sampled_from(["none", "soft", "hard", "medium"]),
        "distillation_weight": NUMBERS,
        "distillation_temperature": NUMBERS,
        "mixup_alpha": NUMBERS,
        "cutmix_alpha": NUMBERS,
        "mixup_switch_prob": NUMBERS,
        "label_smoothing": NUMBERS,
        "label_loss": st.sampled_from(["cross_entropy", "binary_cross_entropy", "mse"]),
        "random_augment": st.sampled_from(["none", "3-augment", "rand-m5-n2", "rand", "auto", ""]),
        "color_jitter": NUMBERS,
        "random_erase_prob": NUMBERS,
        "crop_mode": st.sampled_from(["random_resized", "simple", "none"]),
        "crop_min_scale": NUMBERS,
        "repeated_augmentation": st.integers(-1, 4),
        "learning_rate": NUMBERS,
        "base_learning_rate": NUMBERS,
        "warmup_epochs": NUMBERS,
        "min_learning_rate": NUMBERS,
        "weight_decay": NUMBERS,
        "layer_decay": NUMBERS,
        "ema_decay": NUMBERS,
        "max_grad_norm": NUMBERS,
        "max_bad_steps": st.integers(-2, 3),
        "per_device_train_batch_size": st.integers(-1, 6),
        "gradient_accumulation_steps": st.integers(0, 3),
        "num_train_epochs": NUMBERS,
    },
)


@given(training_options)
@settings(PROPERTIES, max_examples=150)
def test_options_are_valid_or_refused_by_name(options: dict):
    try:
        args = DistillationArguments("run", report_to="none", use_cpu=True, **options)
    except ValueError as error:
        refused = str(error)
    else:
        refused = None
    if refused is not None:
        assert any(f"`{name}`" in refused for name in options), refused
        return
    for name, value in options.items():
        assert math.isfinite(value) if isinstance(value, float) else True, f"{name} took {value}"
    assert args.global_batch_size >= 1
    assert args.learning_rate >= 0
    assert args.random_augment in ("none", "3-augment") or RANDOM_AUGMENT_POLICY.fullmatch(args.random_augment)
    assert not (args.mixes and args.per_device_train_batch_size % 2)


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "distillation_weight": st.floats(0, 1),
            "distillation_temperature": st.floats(0.01, 100),
            "mixup_alpha": st.floats(0, 10),
            "label_smoothing": st.floats(0, 0.99),
            "base_learning_rate": st.floats(1e-12, 1),
            "min_learning_rate": st.floats(0, 1e-3),
            "weight_decay": st.floats(0, 1),
            "num_train_epochs": st.floats(0.01, 1e4),
            "max_grad_norm": st.floats(0, 1e6),
            "max_bad_steps": st.integers(0, 9),
            "train_only": st.none() | st.text(alphabet="abc|.:#'\"- ", min_size=1, max_size=8),
            "logging_steps": st.integers(1, 999),
            "random_augment": st.sampled_from(["none", "rand-m5-n2"]),
            "seed": st.integers(0, 2**31),
        },
    )
)
@settings(PROPERTIES, max_examples=30)
def test_recipe_that_was_written_gives_the_same_options(tmp_path, options: dict):
    kinds = (ModelArguments, DataArguments, DistillationArguments)
    model = ModelArguments(variant="deit_tiny_patch16_224", config_overrides={"hidden_size": 96})
    data = DataArguments(dataset_name="no", label_column_name="null")
    args = DistillationArguments("run", report_to="none", use_cpu=True, **options)
    write_recipe(tmp_path / "recipe.yaml", model, data, args)
    read_model, read_data, read_args = parse_recipe(kinds, [str(tmp_path / "recipe.yaml")])
    assert (read_model, read_data) == (model, data)
    assert {name: getattr(read_args, name) for name in options} == {name: getattr(args, name) for name in options}
    assert read_args.learning_rate == args.learning_rate


# ---- labels ----


@given(st.permutations([f"class {i}" for i in range(6)]), st.permutations([f"class {i}" for i in range(6)]))
@PROPERTIES
def test_teachers_answers_come_in_the_students_order(teacher: list[str], student: list[str]):
    class Answers(torch.nn.Module):
        def forward(self, pixel_values: Tensor) -> Tensor:
            return torch.arange(6.0).expand(len(pixel_values), 6)  # class indices in the teacher's order

    statistics = {"mean": (0.5,) * 3, "std": (0.5,) * 3, "image_size": 4}
    matched = Teacher(Answers(), id2label=dict(enumerate(teacher)), **statistics)
    matched.match_labels(DeiTConfig(id2label=dict(enumerate(student))))
    numbers = matched(torch.zeros(1, 3, 4, 4))[0].long().tolist()
    assert [teacher[number] for number in numbers] == student
