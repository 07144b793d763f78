"""The peers do the same work as this package (options, steps, learning rates, decay, loss), and their model loads."""

from pathlib import Path
from typing import Any

import datasets
import pytest
import timm
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook

from deit_hf import DeiTConfig, Teacher
from deit_hf.benchmarks.peer_training import PEERS, check_peer_options, peer_loss, train_peer
from deit_hf.benchmarks.peers import timm_architecture
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.sources.load import ImageParts
from deit_hf.distillation.losses import distillation_objective
from deit_hf.hub.run_files import read_json
from deit_hf.model.arguments import ModelArguments
from deit_hf.model.build import build_student, load_classifier
from deit_hf.reliability.checkpoints import is_finished
from deit_hf.training.arguments import DistillationArguments
from deit_hf.training.run import train

VARIANT = "deit_tiny_distilled_patch16_224"
SIZES = {"patch_size": 8, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 2}
DATA = DataArguments(dataset_name="unused")


@pytest.fixture
def teacher_folder(tmp_path: Path) -> str:
    student = {"variant": "deit_tiny_patch16_224", "image_size": 16, "config_overrides": {**SIZES, "num_labels": 5}}
    labels = {"num_labels": 5, "id2label": dict(enumerate("abcde")), "label2id": {c: i for i, c in enumerate("abcde")}}
    model, processor = build_student(ModelArguments(**student), labels)
    for each in (model, processor):
        each.save_pretrained(tmp_path / "teacher")
    return str(tmp_path / "teacher")


def options(folder: Path, **changed: Any) -> DistillationArguments:
    chosen: dict[str, Any] = {
        "distillation_type": "hard",
        "repeated_augmentation": 1,
        "random_augment": "none",
        "color_jitter": 0,
        "random_erase_prob": 0,
        "num_train_epochs": 3,
        "warmup_epochs": 1,
        "learning_rate": 1e-3,
        "per_device_train_batch_size": 8,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "evaluate_teacher": False,
        **changed,
    }
    return DistillationArguments(str(folder), **chosen)


def model_options(teacher: str) -> ModelArguments:
    own: Any = {"image_size": 32, "config_overrides": dict(SIZES), "drop_path_rate": 0.0}
    return ModelArguments(variant=VARIANT, teacher_model_name_or_path=teacher, **own)


@pytest.mark.parametrize("peer", PEERS)
def test_the_loss_of_a_peer_is_the_objective_of_this_package(
    peer: str, tmp_path: Path, tiny_config: DeiTConfig, tiny_teacher: Teacher, toy_images: torch.Tensor
):
    tiny_config.drop_path_rate = 0.0
    model = timm_architecture(VARIANT, tiny_config)
    targets = torch.rand(4, 5).softmax(dim=1)
    loss = peer_loss(peer, model, tiny_teacher, options(tmp_path, distillation_weight=0.3))(toy_images, targets)
    heads = model(toy_images)
    mine = distillation_objective(
        *heads, targets, tiny_teacher(toy_images), distillation_type="hard", weight=0.3, temperature=3.0
    )
    torch.testing.assert_close(loss, mine.loss)


def steps_of(train_once: Any) -> list[tuple[float, set[tuple[float, int]]]]:
    """Learning rate, and weight decays with their numbers of values, at each optimizer step."""
    seen: list[Any] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        groups = optimizer.param_groups
        decays = {(group["weight_decay"], sum(each.numel() for each in group["params"])) for group in groups}
        (rate,) = {group["lr"] for group in groups}
        seen.append((rate, decays, groups[0]["betas"], groups[0]["eps"]))

    hook = register_optimizer_step_post_hook(note)
    try:
        train_once()
    finally:
        hook.remove()
    return seen


def test_as_many_steps_with_the_same_learning_rates_and_decay_as_this_package(
    tmp_path: Path, teacher_folder: str, toy_rows: datasets.Dataset
):
    parts, changed = ImageParts(train=toy_rows), {"num_train_epochs": 2.5, "adam_beta2": 0.98}
    model_args = model_options(teacher_folder)
    ours = steps_of(lambda: train(model_args, DATA, options(tmp_path / "ours", **changed), parts))
    theirs = steps_of(lambda: train_peer("timm", model_args, DATA, options(tmp_path / "timm", **changed), parts))
    assert len(ours) == len(theirs) == 13  # 12.5, rounded up
    torch.testing.assert_close([each[0] for each in theirs], [each[0] for each in ours])
    assert len({each[0] for each in ours}) > 5
    assert [each[1:] for each in theirs] == [each[1:] for each in ours]
    speeds = [read_json(tmp_path / name / "train_results.json") for name in ("ours", "timm")]
    views = [speed["train_runtime"] * speed["train_samples_per_second"] for speed in speeds]
    assert views[0] == pytest.approx(views[1], rel=0.05)  # both are rounded


@pytest.mark.parametrize("peer", PEERS)
def test_a_peer_leaves_a_finished_run_whose_model_computes_what_timms_does(
    peer: str, tmp_path: Path, teacher_folder: str, toy_rows: datasets.Dataset, monkeypatch, toy_images: torch.Tensor
):
    made: list[Any] = []
    create = timm.create_model
    monkeypatch.setattr(timm, "create_model", lambda *args, **kwargs: made.append(create(*args, **kwargs)) or made[-1])
    folder, parts = tmp_path / "run", ImageParts(train=toy_rows)
    train_peer(peer, model_options(teacher_folder), DATA, options(folder, num_train_epochs=1), parts)
    assert is_finished(folder)
    model, processor = load_classifier(str(folder))
    assert model.config.id2label == dict(enumerate("abcde"))
    assert processor.crop_size["height"] == 32
    (theirs,) = (each for each in made if hasattr(each, "head_dist"))
    with torch.no_grad():
        torch.testing.assert_close(model.eval()(toy_images).logits, theirs.eval()(toy_images), rtol=1e-4, atol=1e-5)
    results = read_json(folder / "train_results.json")
    assert results["train_runtime"] > 0
    assert results["trained_by"] == peer
    # a finished run stays as it is, also for the other peer
    before = (folder / "model.safetensors").stat().st_mtime_ns
    train_peer(peer, model_options(teacher_folder), DATA, options(folder, num_train_epochs=1), parts)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    other = next(each for each in PEERS if each != peer)
    with pytest.raises(ValueError, match=f"was trained by {peer}, not by the peer {other}; name another directory"):
        train_peer(other, model_options(teacher_folder), DATA, options(folder, num_train_epochs=1), parts)


def test_the_seed_decides_and_a_stopped_run_starts_again(
    tmp_path: Path, teacher_folder: str, toy_rows: datasets.Dataset, monkeypatch: pytest.MonkeyPatch
):
    def weights(name: str, seed: int) -> torch.Tensor:
        args = options(tmp_path / name, num_train_epochs=1, seed=seed)
        train_peer("plain", model_options(teacher_folder), DATA, args, ImageParts(train=toy_rows))
        return load_classifier(args.output_dir)[0].cls_classifier.weight

    with monkeypatch.context() as patched:
        patched.setattr("deit_hf.benchmarks.peer_training.convert_checkpoint", _stop)
        with pytest.raises(KeyboardInterrupt):
            weights("stopped", 1)
    assert not is_finished(tmp_path / "stopped")
    first, second, third = weights("stopped", 1), weights("whole", 1), weights("other", 2)
    assert torch.equal(first, second)
    assert not torch.equal(first, third)


def _stop(*_: Any, **__: Any) -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"repeated_augmentation": 3}, "`repeated_augmentation` is 3, but the peer timm trains with 1"),
        ({"distillation_type": "soft"}, "`distillation_type` is soft, but the peer timm trains with hard"),
        ({"crop_mode": "simple"}, "`crop_mode` is simple, but the peer timm trains with random_resized"),
        ({"ema_decay": 0.9}, "`ema_decay` is 0.9, but the peer timm trains with 0.0"),
        ({"max_grad_norm": 1.0}, "`max_grad_norm` is 1.0, but the peer timm trains with 0.0"),
        ({"gradient_accumulation_steps": 2}, "`gradient_accumulation_steps` is 2, but the peer timm trains with 1"),
        ({"lr_scheduler_type": "linear"}, "`lr_scheduler_type` is linear, but the peer timm trains with cosine"),
        ({"learning_rate_stepping": "official"}, "`learning_rate_stepping` is official, but"),
        ({"timm_optimizer": "lamb"}, "`timm_optimizer` is lamb, but the peer timm trains with None"),
        ({"optim": "sgd"}, "`optim` is sgd, but the peer timm trains with adamw"),
        ({"max_steps": 3}, "`max_steps` is 3, but the peer timm trains with -1"),
        ({"min_steps_per_epoch": 9}, "`min_steps_per_epoch` is 9, but the peer timm trains with 0"),
        ({"on_bad_image": "skip"}, "`on_bad_image` is skip, but the peer timm trains with error"),
        ({"resume_from_checkpoint": "x"}, "`resume_from_checkpoint` is x, but the peer timm trains with None"),
        ({"random_augment": "3-augment"}, "timm's loader has no 3-augment and always mixes"),
        ({"mixup_alpha": 0, "cutmix_alpha": 0}, "timm's loader has no 3-augment and always mixes"),
    ],
)
def test_an_option_that_a_peer_would_ignore_is_refused_in_one_line(changed: dict, message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message) as error:
        check_peer_options("timm", model_options("teacher"), DATA, options(tmp_path, **changed))
    assert "\n" not in str(error.value)


def test_students_that_timm_does_not_have_are_refused(tmp_path: Path):
    for own, message in (
        ({"variant": "deit_tiny_patch16_224"}, "peers train only distilled variants; name one"),
        ({"model_name_or_path": "some/model"}, "`variant` is None, but peers train only distilled variants"),
        ({"variant": VARIANT, "config_overrides": {"hidden_act": "relu"}}, r"`config_overrides` is \['hidden_act'\]"),
    ):
        model_args = ModelArguments(**own, teacher_model_name_or_path="teacher")
        with pytest.raises(ValueError, match=message):
            check_peer_options("timm", model_args, DATA, options(tmp_path))
    with pytest.raises(ValueError, match="`peer` is 'keras', but must be one of timm, plain"):
        check_peer_options("keras", model_options("teacher"), DATA, options(tmp_path))
