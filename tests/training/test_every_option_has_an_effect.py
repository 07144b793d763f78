"""Every option of this package changes what it should change in a short training, and nothing else.

A training is observed at the places in `CAUSES`, which are independent of each other: for example the views of the
same keys, and the loss of a fixed batch. An option that is read but not passed on changes nothing, and one that is
passed to the wrong place changes something else. Each new option needs a case here.
"""

import dataclasses
import functools
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
from conftest import TinyConvNet
from support.trainers import make_args
from torch import Tensor, nn
from transformers import TrainerCallback

from deit_hf import (
    DeiTConfig,
    DeiTForImageClassificationWithTeacher,
    DistillationArguments,
    DistillationTrainer,
    Teacher,
)
from deit_hf.data.decoding import BadImageError
from deit_hf.reliability.numerical_faults import NonFiniteLossError

CAUSES = ("order", "views", "mixing", "objective", "rates", "optimizer", "modes", "evaluation", "teacher", "outcome")
BASE = {
    "distillation_type": "soft",
    "learning_rate": 0.01,
    "ema_decay": 0.9,
    "ema_warmup": False,
    "per_device_eval_batch_size": 24,
}
STEP_SIZE, NUM_IMAGES = 8, 24


@dataclasses.dataclass
class Watched:
    """What was observed of a training.

    Attributes:
        order: keys (epoch, sample, repeat) of the views of each step.
        views: pixels by key, before mixing.
        mixing: the fraction that each image of each step keeps in its mix.
        objective: loss of a fixed batch.
        rates: learning rate of each step, and the one after the last step.
        optimizer: its class, and the options of each of its parameters.
        modes: the modes of the student in all steps; True is training mode.
        evaluation: metrics, measured before the training.
        teacher: its line in the effective settings.
        outcome: class of the error that ended the training, or the numbers of skipped steps and images.
        weights: by name, before the first step and after each step.
        averages: averaged weights by name, at the end.
    """

    order: list[list[tuple]] = dataclasses.field(default_factory=list)
    views: dict[tuple, Tensor] = dataclasses.field(default_factory=dict)
    mixing: list[Any] = dataclasses.field(default_factory=list)
    objective: float = 0.0
    rates: list[float] = dataclasses.field(default_factory=list)
    optimizer: dict[str, Any] = dataclasses.field(default_factory=dict)
    modes: set[bool] = dataclasses.field(default_factory=set)
    evaluation: dict[str, float] = dataclasses.field(default_factory=dict)
    teacher: str = ""
    outcome: Any = None
    weights: list[dict[str, Tensor]] = dataclasses.field(default_factory=list)
    averages: dict[str, Tensor] = dataclasses.field(default_factory=dict)

    def differs(self, other: "Watched", name: str) -> bool:
        own, others = getattr(self, name), getattr(other, name)
        if name == "views":
            common = own.keys() & others.keys()
            assert common, "no view to compare"
            return not all(torch.equal(own[key], others[key]) for key in common)
        if name == "averages":
            return not all(torch.equal(own[key], others[key]) for key in own)
        return own != others

    def has_class(self, name: str) -> bool:
        """Whether the optimizer has this class."""
        return self.optimizer["class"] == name

    def option(self, name: str) -> Any:
        """An option of the optimizer for a weight matrix."""
        return self.optimizer["cls_classifier.weight"][name]

    def averages_with(self, decays: list[float]) -> bool:
        """Whether the averages follow from the weights after each step with these decays."""
        name = "cls_classifier.weight"
        average = self.weights[0][name]
        for decay, weights in zip(decays, self.weights[1:], strict=True):
            average = decay * average + (1 - decay) * weights[name]
        return torch.allclose(self.averages[name], average, rtol=0, atol=1e-6)

    @property
    def most_views_of_an_image(self) -> int:
        """The largest number of views of one image in one step."""
        return max(max(Counter(sample for _, sample, _ in step).values()) for step in self.order)

    @property
    def is_constant(self) -> bool:
        """Whether all steps have the same learning rate."""
        return len(set(self.rates[:-1])) == 1

    @property
    def trains_heads_alone(self) -> bool:
        return all("classifier" in name for name in self.optimizer if name != "class")

    @property
    def step_length(self) -> float:
        """Norm of the change of the weights in the first step, divided by its learning rate."""
        changes = [after - self.weights[0][name] for name, after in self.weights[1].items()]
        return torch.stack([change.norm() for change in changes]).norm().item() / self.rates[0]


def _seen(view: dict) -> Tensor:
    """The pixels of a training view, before normalisation, with the noise of its erased box."""
    pixels, erasure = view["pixels"].float(), view["erasure"]
    if erasure is not None:
        top, left, noise = erasure
        pixels[:, top : top + noise.shape[1], left : left + noise.shape[2]] = noise
    return pixels


class Watch(TrainerCallback):
    """Fills in a `Watched` during a training, by hooks and callbacks."""

    def __init__(self, trainer: DistillationTrainer):
        self.trainer, self.seen, self.collate = trainer, Watched(), trainer.data_collator
        trainer.data_collator = self.collated
        modes = self.seen.modes  # not a bound method, which would be copied with the averaged model
        trainer.model.register_forward_hook(lambda model, *_: torch.is_grad_enabled() and modes.add(model.training))
        trainer.add_callback(self)

    def collated(self, views: list[dict]) -> dict[str, Any]:
        batch = self.collate(views)
        if "key" in views[0]:
            keys = [(view["key"].epoch, view["key"].sample, view["key"].repeat) for view in views]
            self.seen.order.append(keys)
            self.seen.views.update(zip(keys, (_seen(view) for view in views), strict=True))
            self.seen.mixing.append(batch["mix_ratios"].tolist() if "mix_ratios" in batch else None)
        return batch

    def weights(self, model: nn.Module) -> dict[str, Tensor]:
        return {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}

    def on_train_begin(self, args, state, control, model=None, optimizer=None, **kwargs) -> None:
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.seen.optimizer["class"] = type(optimizer.optimizer).__name__
        for group in optimizer.param_groups:
            options = {name: value for name, value in group.items() if name not in ("params", "lr", "initial_lr")}
            self.seen.optimizer |= {names[id(parameter)]: options for parameter in group["params"]}
        self.seen.weights.append(self.weights(model))

    def on_pre_optimizer_step(self, args, state, control, optimizer=None, **kwargs) -> None:
        self.seen.rates.append(optimizer.param_groups[0]["lr"])

    def on_step_end(self, args, state, control, model=None, **kwargs) -> None:
        self.seen.weights.append(self.weights(model))


def make_rows(kind: str) -> Any:
    """Images of different sizes in five classes: plain rows, with one broken image, or as a stream of four shards."""
    generator = np.random.default_rng(0)
    images = [generator.integers(0, 256, (40 + i, 60 - i, 3), dtype=np.uint8) for i in range(NUM_IMAGES)]
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcde"))})
    labels = [i % 5 for i in range(NUM_IMAGES)]
    rows = datasets.Dataset.from_dict({"image": images, "label": labels}, features=features)
    if kind == "one broken":
        broken = datasets.Dataset.from_dict({"image": [{"bytes": b"?"}], "label": [0]}, features=features)
        return datasets.concatenate_datasets([broken, rows.select(range(1, NUM_IMAGES))])
    return rows.to_iterable_dataset(num_shards=4) if kind == "stream" else rows


@functools.cache
def rows_of(kind: str) -> Any:
    return make_rows(kind)


class NotANumberAtStep2:
    def __init__(self) -> None:
        self.num_steps = 0

    def __call__(self, model: nn.Module, args: tuple, outputs: Any) -> None:
        self.num_steps += torch.is_grad_enabled()
        if self.num_steps == 2:
            outputs.cls_logits = outputs.cls_logits * float("nan")


def watch(folder: Path, rows: str = "plain", fault: bool = False, **options: Any) -> Watched:
    """Trains for three steps, or as many as the options set."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 12, "num_attention_heads": 2, "intermediate_size": 16, "num_hidden_layers": 2}
    config = DeiTConfig(image_size=32, patch_size=16, num_labels=5, drop_path_rate=0, initializer_range=0.3, **sizes)
    student = DeiTForImageClassificationWithTeacher(config)
    teacher = Teacher(TinyConvNet(), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5), image_size=32)
    trainer = DistillationTrainer(
        student,
        make_args(folder, **{**BASE, **options}),
        teacher=teacher,
        train_dataset=rows_of(rows),
        eval_dataset=rows_of("plain").select(range(8)),
    )
    one_batch = {
        "pixel_values": torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1)),
        "labels": torch.tensor([0, 1, 2, 3]),
        "mix_ratios": torch.full((4,), 0.75),
    }
    objective = trainer.compute_loss(trainer.model, one_batch).item()
    trainer.loss_log.restore(None)
    evaluation = trainer.evaluate()
    seen = Watch(trainer).seen
    seen.objective = round(objective, 5)  # torch computes frozen layers differently
    metrics = {name: value for name, value in evaluation.items() if name.startswith(("eval_loss", "eval_top"))}
    seen.evaluation = {name: round(value, 5) for name, value in metrics.items()}
    if fault:
        trainer.model.register_forward_hook(NotANumberAtStep2())
    try:
        metrics = trainer.train().metrics
        seen.outcome = {name: metrics[name] for name in ("train_bad_steps", "train_bad_images") if name in metrics}
        seen.rates.append(trainer.lr_scheduler.get_last_lr()[0])
    except (NonFiniteLossError, BadImageError) as error:
        seen.outcome = type(error).__name__
    seen.teacher = trainer.effective_recipe["teacher"]
    if trainer.ema is not None:
        seen.averages = Watch.weights(None, trainer.ema.model)
    return seen


@dataclasses.dataclass
class Case:
    """Two values of an option, and what differs between a training with the one and with the other.

    Attributes:
        values: the two values.
        changes: the names in `CAUSES` that differ, and no others; also `averages`.
        also: further options of both trainings, and the rows or the fault that make the effect visible.
        expects: whether a training with a value looks as it should, from the value and the observed training.
    """

    values: tuple[Any, Any]
    changes: set[str]
    also: dict[str, Any] = dataclasses.field(default_factory=dict)
    expects: Callable[[Any, Watched], bool] = lambda value, seen: True


STREAM = {"rows": "stream", "num_train_samples": NUM_IMAGES}
TWO_EPOCHS = {"num_train_epochs": 2}
WARMUP = {"warmup_epochs": 1}
TIMM = {"timm_optimizer": "adamw"}
SGD = {"optim": "sgd", "weight_decay": 0.0}
CASES = {
    "distillation_type": Case(("soft", "hard"), {"objective"}),
    "distillation_weight": Case((0.5, 0.3), {"objective"}),
    "distillation_temperature": Case((3.0, 2.0), {"objective"}),
    "distillation_reduction": Case(("batchmean", "numel"), {"objective"}),
    "label_loss": Case(("cross_entropy", "binary_cross_entropy"), {"objective"}, {"label_smoothing": 0.0}),
    "class_weighting": Case(("none", "balanced"), {"objective"}),
    "label_smoothing": Case((0.1, 0.2), {"objective"}),
    "evaluate_teacher": Case((True, False), {"teacher"}, {}, lambda v, seen: ("not measured" in seen.teacher) != v),
    "mixup_alpha": Case((0.8, 0.4), {"mixing"}),
    "cutmix_alpha": Case((1.0, 0.4), {"mixing"}),
    "mixup_switch_prob": Case((0.5, 1.0), {"mixing"}),
    "random_augment": Case(("rand-m9-mstd0.5-inc1", "none"), {"views"}, {"color_jitter": 0.0}),
    "color_jitter": Case((0.3, 0.0), {"views"}, {"random_augment": "none"}),
    "random_erase_prob": Case((0.25, 1.0), {"views"}),
    "crop_mode": Case(("random_resized", "simple"), {"views"}),
    "crop_min_scale": Case((0.08, 0.9), {"views"}),
    "horizontal_flip_prob": Case((0.0, 1.0), {"views"}),
    "repeated_augmentation": Case((3, 1), {"order"}, {}, lambda v, seen: seen.most_views_of_an_image == v),
    "min_steps_per_epoch": Case((0, 6), {"order", "mixing", "rates"}, {}, lambda v, s: len(s.order) == (v or 3)),
    "learning_rate": Case((0.01, 0.02), {"rates"}, {}, lambda v, seen: seen.rates[0] == v),
    "base_learning_rate": Case((0.5, 1), {"rates"}, {"learning_rate": None}, lambda v, s: s.rates[0] == v * 8 / 512),
    "lr_scheduler_type": Case(("cosine", "constant"), {"rates"}, {}, lambda v, s: s.is_constant == (v != "cosine")),
    "learning_rate_stepping": Case(
        ("step", "official"), {"rates"}, TWO_EPOCHS, lambda v, s: s.is_constant == (v != "step")
    ),
    "min_learning_rate": Case((1e-5, 1e-3), {"rates"}, {}, lambda v, seen: seen.rates[-1] == pytest.approx(v)),
    "warmup_learning_rate": Case((1e-6, 1e-3), {"rates"}, WARMUP, lambda v, seen: seen.rates[0] == pytest.approx(v)),
    "warmup_epochs": Case((0, 1), {"rates"}, TWO_EPOCHS, lambda v, seen: seen.rates.index(max(seen.rates)) == 3 * v),
    "weight_decay": Case((0.05, 0.1), {"optimizer"}, {}, lambda v, seen: seen.option("weight_decay") == v),
    "layer_decay": Case((1.0, 0.5), {"optimizer"}),
    "timm_optimizer": Case(
        (None, "lamb"), {"optimizer"}, {}, lambda v, s: (s.optimizer["class"] == "Lamb") == bool(v)
    ),
    "num_train_epochs": Case((1, 2), {"order", "mixing", "rates"}, {}, lambda v, seen: len(seen.order) == 3 * v),
    "max_grad_norm": Case((0.5, 0.25), set(), SGD, lambda v, seen: seen.step_length == pytest.approx(v, rel=1e-3)),
    "fusion": Case(("logit_mean", "softmax_sum"), {"evaluation"}),
    "train_only": Case((None, "classifier"), {"optimizer"}, {}, lambda v, seen: seen.trains_heads_alone == bool(v)),
    "student_mode": Case(("train", "eval"), {"modes"}, {}, lambda v, seen: seen.modes == {v == "train"}),
    "on_bad_image": Case(
        ("error", "skip"),
        {"order", "mixing", "rates", "modes", "outcome"},
        {"rows": "one broken", "repeated_augmentation": 1},
        lambda v, seen: v == "skip" or seen.outcome == "BadImageError",
    ),
    "ema_decay": Case((0.9, 0.5), {"averages"}, {}, lambda v, seen: seen.averages_with([v] * 3)),
    "ema_warmup": Case(
        (False, True), {"averages"}, {}, lambda v, s: s.averages_with([0, 0.1, 2 / 11] if v else [0.9] * 3)
    ),
    "num_train_samples": Case(
        (24, 16), {"order", "mixing", "rates"}, STREAM, lambda v, seen: len(seen.order) == v / 8
    ),
    "num_streams": Case((1, 2), {"order"}, STREAM),
    "shuffle_buffer_size": Case((1000, 1), {"order"}, STREAM),
    "max_bad_steps": Case((0, 1), {"rates", "outcome"}, {"fault": True}, lambda v, s: len(s.rates) == 2 + 2 * v),
}
INHERITED = {
    "data_seed": Case((None, 7), {"order", "views", "mixing"}),
    "adam_beta1": Case((0.9, 0.8), {"optimizer"}, TIMM, lambda v, seen: seen.option("betas") == (v, 0.999)),
    "adam_beta2": Case((0.999, 0.99), {"optimizer"}, TIMM, lambda v, seen: seen.option("betas") == (0.9, v)),
    "adam_epsilon": Case((1e-8, 1e-6), {"optimizer"}, TIMM, lambda v, seen: seen.option("eps") == v),
}
# Options whose other value is refused, or whose effect needs a resume, several processes or a command: option -> test.
ELSEWHERE = {
    "remove_unused_columns": "test_options_of_transformers_that_cannot_work_here_are_refused",
    "batch_eval_metrics": "test_options_of_transformers_that_cannot_work_here_are_refused",
    "logging_nan_inf_filter": "test_option_of_transformers_without_use_for_pictures_is_refused_by_name",
    "hub_strategy": "test_option_of_transformers_without_use_for_pictures_is_refused_by_name",
    "restore_callback_states_from_checkpoint": "test_early_stopping_is_where_it_would_have_been",
    "teacher_cache": "test_one_store_gives_many_trainings_the_bits_of_the_teacher",
    "teacher_cache_epochs": "test_views_of_a_few_epochs_are_repeated",
    "ddp_find_unused_parameters": "test_ddp_wraps_the_student_alone_and_searches_for_no_unused_parameter",
    "verbose": "test_verbose_training_prints_as_transformers_does",
    "training_views": "test_a_training_has_the_same_bits_with_and_without_the_figures",
    "overwrite_output_dir": "test_overwriting_deletes_the_checkpoints_and_nothing_else",
    "allow_changes": "test_options_of_the_optimizer_are_refused_or_used",
}


@functools.cache
def watched(**options: Any) -> Watched:
    with tempfile.TemporaryDirectory() as folder:
        return watch(Path(folder), **options)


@pytest.mark.parametrize("name", [*CASES, *INHERITED])
def test_option_changes_what_it_governs_and_nothing_else(name: str, tmp_path: Path):
    case = {**CASES, **INHERITED}[name]
    first = watched(**{**case.also, name: case.values[0]})
    second = watched(**{**case.also, name: case.values[1]})
    assert {cause for cause in CAUSES if first.differs(second, cause)} == case.changes - {"averages"}
    for value, seen in zip(case.values, (first, second), strict=True):
        assert case.expects(value, seen), value
    again = watch(tmp_path, **{**case.also, name: case.values[1]})
    assert [cause for cause in (*CAUSES, "averages") if second.differs(again, cause)] == []


def test_every_option_of_ours_has_a_case():
    own = {
        option.name for option in dataclasses.fields(DistillationArguments)
    } & DistillationArguments.__annotations__.keys()
    assert own == {*CASES, *ELSEWHERE}
    tests = "".join(path.read_text("utf-8") for path in Path(__file__).parents[1].rglob("test_*.py"))
    assert [test for test in ELSEWHERE.values() if f"def {test}(" not in tests] == []
