"""Averaged weights: their arithmetic, and that they do not change the student or its training."""

import json
import os
from pathlib import Path

import datasets
import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file
from support.processes import RECIPE
from support.processes import train as train_in_processes
from support.trainers import make_args, make_resnet, parameters_of
from torch import nn
from torch.optim.swa_utils import get_ema_avg_fn
from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
)

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.evaluation.metric_names import SHARES
from deit_hf.hub.model_card import render_model_card
from deit_hf.hub.model_facts import ModelFacts
from deit_hf.hub.run_files import files_to_push
from deit_hf.model.arguments import ModelArguments
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.reliability.step_outcome import StepOutcome
from deit_hf.training.ema import AveragedWeights, check_not_sharded
from deit_hf.training.run import train
from deit_hf.training.saved_model import evaluate

HEADS = ("cls", "distillation", "average")


def make_trainer(tmp_path: Path, config: DeiTConfig, rows: datasets.Dataset, **options) -> DistillationTrainer:
    """Returns a trainer with five steps of eight views per epoch; stochastic depth makes random state visible."""
    torch.manual_seed(0)
    config.drop_path_rate = 0.5
    options = {"ema_decay": 0.9, "per_device_eval_batch_size": 16, **options}
    student = DeiTForImageClassificationWithTeacher(config)
    return DistillationTrainer(student, make_args(tmp_path, **options), train_dataset=rows, eval_dataset=rows)


def follow(averages: AveragedWeights, model: nn.Module, values: list[float]) -> float:
    """Returns the average of a parameter that has these values one after the other."""
    averages.start(model)
    for value in values:
        nn.init.constant_(model.cls_classifier.bias, value)
        averages.update(model)
    return averages.model.cls_classifier.bias[0].item()


# ---- the averages ----


def test_three_warm_updates_follow_torchs_formula_with_decays_worked_by_hand(tiny_student):
    nn.init.constant_(tiny_student.cls_classifier.bias, 7.0)
    expected = torch.tensor(7.0, dtype=torch.float64)
    for decay, value in ((0.0, 1.0), (1 / 10, 2.0), (2 / 11, 4.0)):
        expected = get_ema_avg_fn(decay)(expected, torch.tensor(value, dtype=torch.float64), 0)
    assert expected.item() == pytest.approx(2 / 11 * 1.9 + 9 / 11 * 4)
    averages = AveragedWeights(0.99996, warmup=True, outcome=StepOutcome())
    assert follow(averages, tiny_student, [1.0, 2.0, 4.0]) == pytest.approx(expected.item(), rel=1e-6)
    assert averages.num_updates == 3


def test_warm_up_ends_at_the_decay(tiny_student):
    # without the upper bound the third update would have decay 2/11
    average = follow(AveragedWeights(0.05, warmup=True, outcome=StepOutcome()), tiny_student, [1.0, 2.0, 4.0])
    assert average == pytest.approx(0.05 * (0.05 * 1.0 + 0.95 * 2.0) + 0.95 * 4.0, rel=1e-6)


def test_without_warm_up_the_average_starts_at_the_initial_weights(tiny_student):
    nn.init.constant_(tiny_student.cls_classifier.bias, 7.0)
    expected = 7.0
    for value in (1.0, 2.0, 4.0):
        expected = 0.99996 * expected + 0.00004 * value
    averages = AveragedWeights(0.99996, warmup=False, outcome=StepOutcome())
    assert follow(averages, tiny_student, [1.0, 2.0, 4.0]) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_averages_of_half_precision_weights_are_float32(tiny_student, dtype: torch.dtype):
    # in half precision updates by 4e-5 of the difference would round to nothing
    tiny_student.to(dtype)
    nn.init.constant_(tiny_student.cls_classifier.bias, 1.0)
    averages = AveragedWeights(0.99996, warmup=False, outcome=StepOutcome())
    assert follow(averages, tiny_student, [2.0] * 50) == pytest.approx(2 - 0.99996**50, abs=1e-6)
    assert tiny_student.cls_classifier.bias.dtype == dtype
    still = tiny_student.cls_classifier.weight
    assert torch.equal(averages.model.cls_classifier.weight, still.float())


def test_batch_statistics_are_averaged_and_counters_copied():
    model, averages = make_resnet(), AveragedWeights(0.25, warmup=False, outcome=StepOutcome())
    norm = model.resnet.embedder.embedder.normalization
    averages.start(model)
    norm.running_mean.fill_(1.0)
    norm.num_batches_tracked.fill_(12)
    averages.update(model)
    own = averages.model.resnet.embedder.embedder.normalization
    assert own.running_mean.tolist() == pytest.approx([0.75] * 8)
    assert own.num_batches_tracked.item() == 12


# ---- a training ----


def test_all_parameters_are_averaged_outside_the_student_and_its_optimizer(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows)
    names = set(trainer.model.state_dict())
    trainer.train()
    assert trainer.ema.num_updates == 5
    student, averages = parameters_of(trainer.model), parameters_of(trainer.ema.model)
    assert set(student) == names == set(averages)
    same = [name for name, tensor in averages.items() if torch.equal(tensor, student[name])]
    # a key bias adds the same to all scores of a row, so softmax ignores it
    assert [name for name in same if not name.endswith("attention.key.bias")] == []
    optimized = {id(p) for group in trainer.optimizer.param_groups for p in group["params"]}
    assert optimized == {id(p) for p in trainer.model.parameters()}
    assert not any(p.requires_grad or p.device != trainer.model.device for p in trainer.ema.model.parameters())


def test_average_of_no_memory_is_the_student(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, ema_decay=1e-12)
    trainer.train()
    averages = parameters_of(trainer.ema.model)
    assert all(torch.equal(tensor, averages[name]) for name, tensor in parameters_of(trainer.model).items())


def test_one_update_a_step_of_the_optimizer_and_none_for_a_skipped_one(tmp_path, tiny_config, toy_rows):
    options = {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    trainer.train()
    assert trainer.ema.num_updates == trainer.state.global_step == 5
    before = parameters_of(trainer.ema.model)
    nn.init.ones_(trainer.model.cls_classifier.bias)
    trainer.optimizer._is_overflow = True  # set by accelerate when gradients overflow in float16
    trainer.callback_handler.on_step_end(trainer.args, trainer.state, trainer.control)
    assert trainer.ema.num_updates == 5
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters_of(trainer.ema.model).items())


def test_training_is_bit_equal_with_and_without_averages(tmp_path, tiny_config, toy_rows):
    # an evaluation draws a seed from the random generator that stochastic depth uses afterwards
    students = []
    for decay in (0.0, 0.9):
        options = {"eval_strategy": "steps", "eval_steps": 1, "ema_decay": decay}
        trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)
        trainer.train()
        students.append(parameters_of(trainer.model))
    assert all(torch.equal(tensor, students[1][name]) for name, tensor in students[0].items())


def test_frozen_parameters_stay_as_they_are(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, train_only="classifier")
    before = parameters_of(trainer.model)
    trainer.train()
    averages = parameters_of(trainer.ema.model)
    changed = {name for name, tensor in averages.items() if not torch.equal(tensor, before[name])}
    assert changed == {f"{head}_classifier.{kind}" for head in HEADS[:2] for kind in ("weight", "bias")}


def test_without_averages_nothing_is_added(tmp_path, tiny_config, toy_rows):
    options = {"ema_decay": 0.0, "save_strategy": "epoch", "eval_strategy": "epoch"}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    trainer.train()
    trainer.save_model()
    assert trainer.ema is None
    assert not [path for path in Path(trainer.args.output_dir).rglob("*") if "ema" in path.name.split("_")]
    assert not [name for entry in trainer.state.log_history for name in entry if "_ema_" in name]


# ---- evaluation ----


def test_evaluation_reports_both_in_one_entry(tmp_path, tiny_config, toy_rows):
    options = {"eval_strategy": "epoch", "load_best_model_at_end": True, "save_strategy": "epoch"}
    options |= {"metric_for_best_model": "eval_top1_average", "num_train_epochs": 2}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    trainer.train()
    entries = [entry for entry in trainer.state.log_history if "eval_loss" in entry]
    assert [entry["step"] for entry in entries] == [5, 10]
    names = {"loss", *(f"{share}_{head}" for share in SHARES for head in HEADS)}
    for entry in entries:
        assert {name for name in entry if name.startswith("eval_ema_")} == {f"eval_ema_{name}" for name in names}
        assert {f"eval_{name}" for name in names} < set(entry)
        assert entry["eval_ema_loss"] != entry["eval_loss"]
    assert trainer.state.best_metric == max(entry["eval_top1_average"] for entry in entries)


def test_several_data_sets_are_told_apart(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows)
    trainer.train()
    parts = {"left": toy_rows.select(range(20)), "right": toy_rows.select(range(3))}
    metrics = trainer.evaluate(parts)
    for name, part in parts.items():
        single = trainer.evaluate(part)
        assert metrics[f"eval_{name}_loss"] == single["eval_loss"]
        assert metrics[f"eval_ema_{name}_loss"] == single["eval_ema_loss"]


@pytest.mark.parametrize("fails", [False, True])
def test_evaluation_leaves_the_student_as_it_was(tmp_path, tiny_config, toy_rows, fails: bool):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows)
    trainer.train()
    trainer.model.train()
    student, before, streams = trainer.model, parameters_of(trainer.model), torch.get_rng_state()
    if fails:
        handle = trainer.ema.model.register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            trainer.evaluate()
        handle.remove()
        assert all(module.training for module in student.modules())
        assert torch.equal(torch.get_rng_state(), streams)
    else:
        trainer.evaluate()
    assert trainer.model is student
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters_of(trainer.model).items())
    assert not [name for name in trainer.predict(toy_rows).metrics if "ema" in name]


def test_evaluation_in_half_precision_leaves_the_averages_in_float32(tmp_path, tiny_config, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, bf16_full_eval=True, use_cpu=True)
    trainer.train()
    before = parameters_of(trainer.ema.model)
    trainer.evaluate()
    assert all(torch.equal(tensor, before[name]) for name, tensor in parameters_of(trainer.ema.model).items())


@pytest.fixture
def rows_on_disk(toy_rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Returns a directory with the toy rows, for `train` and `evaluate`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    (tmp_path / "data").mkdir()
    for split in ("train", "test"):
        toy_rows.to_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet")
    return str(tmp_path / "data")


@pytest.mark.parametrize("bf16", [False, True])
@pytest.mark.parametrize("kind", ["deit", "resnet"])
def test_metrics_are_those_of_the_saved_averages(tmp_path, tiny_config, toy_rows, rows_on_disk, kind: str, bf16: bool):
    # under autocast the averages must be evaluated in the same way as the student
    tiny_config.id2label = dict(enumerate("abcde"))
    student = DeiTForImageClassificationWithTeacher(tiny_config) if kind == "deit" else make_resnet()
    student.config.id2label = dict(enumerate("abcde"))
    options = {
        "ema_decay": 0.9,
        "bf16": bf16,
        "use_cpu": True,
        "learning_rate": 1e-2,
        "per_device_eval_batch_size": 16,
    }
    rows = {"train_dataset": toy_rows, "eval_dataset": toy_rows}
    trainer = DistillationTrainer(student, make_args(tmp_path, **options), processing_class=make_processor(32), **rows)
    trainer.train()
    trainer.save_model()
    metrics = trainer.evaluate()
    source = os.path.join(trainer.args.output_dir, "ema")
    again = evaluate(
        source, DataArguments(dataset_name=rows_on_disk), make_args(tmp_path, **options | {"ema_decay": 0})
    )
    for name in [name for name in again if "top" in name or name == "eval_loss"]:
        assert metrics[name.replace("eval_", "eval_ema_")] == pytest.approx(again[name], rel=1e-6)
    assert metrics["eval_loss"] != again["eval_loss"]


# ---- checkpoints ----


@pytest.mark.parametrize("stop_at", [5, 7])
def test_resumed_averages_end_bit_equal(tmp_path, tiny_config, toy_rows, stop_at: int):
    # five steps per epoch: stops at the end of the first epoch, and within the second
    options = {"num_train_epochs": 2, "save_strategy": "steps", "save_steps": stop_at, "ema_decay": 0.6}
    options |= {"eval_strategy": "steps", "eval_steps": 4}
    whole = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    whole.train()
    resumed = make_trainer(tmp_path, tiny_config, toy_rows, **options)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-{stop_at}")
    expected = parameters_of(whole.ema.model)
    assert resumed.ema.num_updates == whole.ema.num_updates == 10
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parameters_of(resumed.ema.model).items())


def test_saved_averages_come_back_bit_by_bit_with_statistics_and_counters(tmp_path):
    model, averages = make_resnet().to(torch.bfloat16), AveragedWeights(0.7, warmup=True, outcome=StepOutcome())
    averages.start(model)
    for _ in range(3):
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape) if tensor.is_floating_point() else tensor + 1)
        averages.update(model)
    averages.save(tmp_path, make_processor(32))
    loaded = AveragedWeights(0.7, warmup=True, outcome=StepOutcome())
    loaded.start(make_resnet().to(torch.bfloat16))
    loaded.load(tmp_path)
    assert loaded.num_updates == 3
    own = parameters_of(loaded.model)
    assert all(torch.equal(tensor, own[name]) for name, tensor in parameters_of(averages.model).items())
    assert {tensor.dtype for tensor in load_file(tmp_path / "ema" / "model.safetensors").values()} == {
        torch.float32,
        torch.int64,
    }


def test_each_checkpoint_holds_a_model_of_plain_transformers(tmp_path, tiny_config, toy_rows, toy_images):
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, save_strategy="epoch")
    trainer.train()
    trainer.save_model()
    expected = trainer.ema.model(toy_images).logits
    for source in (Path(trainer.args.output_dir), Path(trainer.args.output_dir) / "checkpoint-5"):
        for name, options in ((source / "ema", {}), (source, {"subfolder": "ema"})):
            plain = AutoModelForImageClassification.from_pretrained(name, **options)
            torch.testing.assert_close(plain(toy_images).logits, expected, rtol=0, atol=1e-5)
            assert type(plain).__module__.startswith("transformers.")
            assert AutoImageProcessor.from_pretrained(name, **options).crop_size["height"] == 32


def test_best_checkpoint_gives_student_and_averages(tmp_path, tiny_config, toy_rows):
    options = {"eval_strategy": "epoch", "save_strategy": "epoch", "load_best_model_at_end": True}
    options |= {"metric_for_best_model": "eval_ema_loss", "greater_is_better": True, "num_train_epochs": 3}
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options, learning_rate=1e-2)
    trainer.train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name != "checkpoint-15"  # otherwise the last averages would pass the test, too
    saved = load_file(best / "ema" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in parameters_of(trainer.ema.model).items())


def test_checkpoint_without_averages_is_refused_with_the_choice(tmp_path, tiny_config, toy_rows):
    options = {"save_strategy": "steps", "save_steps": 3}
    make_trainer(tmp_path, tiny_config, toy_rows, **options, ema_decay=0.0).train()
    trainer = make_trainer(tmp_path, tiny_config, toy_rows, **options, allow_changes=["ema_decay"])
    message = r"checkpoint-3.ema` has no averaged weights, but `ema_decay` is 0.9; resume from .*`ema_decay` 0"
    with pytest.raises(FileNotFoundError, match=message):
        trainer.train(resume_from_checkpoint=f"{trainer.args.output_dir}/checkpoint-3")
    assert trainer.state.global_step == 3  # no step was trained


def test_averages_that_lack_weights_are_refused(tmp_path, tiny_student):
    averages = AveragedWeights(0.9, warmup=True, outcome=StepOutcome())
    averages.start(tiny_student)
    averages.save(tmp_path, make_processor(32))
    file = tmp_path / "ema" / "model.safetensors"
    weights = {name: tensor for name, tensor in load_file(file).items() if name != "cls_classifier.bias"}
    save_file(weights, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"ema` lacks cls_classifier.bias; resume from a checkpoint"):
        averages.load(tmp_path)


@pytest.mark.parametrize("decay", [1.0, -0.1, float("nan")])
def test_decay_that_averages_nothing_is_refused(tmp_path, decay: float):
    with pytest.raises(ValueError, match=r"`ema_decay` is .*, but must be in \[0, 1\) \(0 turns averaging off"):
        DistillationArguments(str(tmp_path), report_to="none", ema_decay=decay)


def test_weights_that_no_process_has_whole_are_refused():
    with pytest.raises(ValueError, match="`ema_decay` is 0.9, but under FSDP .*; set `ema_decay` to 0, or train with"):
        check_not_sharded(0.9, is_sharded=True)


# ---- files of a run ----


def test_run_leaves_averages_with_their_metrics_and_card(tmp_path, rows_on_disk, toy_images):
    sizes = {"patch_size": 8, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40}
    model_args = ModelArguments(
        variant="deit_tiny_distilled_patch16_224",
        image_size=32,
        config_overrides={**sizes, "num_hidden_layers": 1},
    )
    args = make_args(tmp_path, ema_decay=0.9, save_strategy="epoch", use_cpu=True, overwrite_output_dir=True)
    output_dir = Path(args.output_dir)
    (output_dir / "ema").mkdir(parents=True)
    (output_dir / "ema" / "stale.json").write_text("of an earlier run")
    metrics = train(model_args, DataArguments(dataset_name=rows_on_disk), args)

    results = json.loads((output_dir / "eval_results.json").read_text())
    for head in HEADS:
        assert results[f"eval_ema_top1_{head}"] == metrics[f"eval_ema_top1_{head}"]
    recipe = yaml.safe_load((output_dir / "recipe.yaml").read_text())
    assert (recipe["ema_decay"], recipe["ema_warmup"]) == (0.9, True)
    card = (output_dir / "README.md").read_text()
    assert f"| class head, averaged weights | {100 * results['eval_ema_top1_cls']:.2f} |" in card
    assert 'subfolder="ema")`' in card

    files = [str(path.relative_to(output_dir)) for path in output_dir.rglob("*") if path.is_file()]
    pushed = files_to_push(output_dir)
    assert {name for name in pushed if name.startswith("ema")} == {
        "ema/config.json",
        "ema/model.safetensors",
        "ema/preprocessor_config.json",
        "ema/averaging.json",
    }
    assert any(name.startswith("checkpoint-") for name in files)
    assert not any(name.startswith("checkpoint-") for name in pushed)


def test_card_of_a_run_without_averages_says_nothing_of_them():
    facts = ModelFacts("run", (32, 32), 5, two_heads=False, metrics={"eval_top1": 0.5, "eval_top5": 1.0})
    assert "verage" not in render_model_card(facts)
    with_averages = ModelFacts("run", (32, 32), 5, two_heads=False, metrics={**facts.metrics, "eval_ema_top1": 0.625})
    assert "| class head (model output), averaged weights | 62.50 |" in render_model_card(with_averages)


@pytest.mark.slow
def test_two_processes_average_as_one_does(tmp_path, monkeypatch):
    monkeypatch.setitem(RECIPE, "ema_decay", 0.9)
    train_in_processes(tmp_path, "one", 1, 16, 1)
    train_in_processes(tmp_path, "two", 2, 4, 2)
    one, two = (load_file(tmp_path / name / "ema" / "model.safetensors") for name in ("one", "two"))
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-4)
    own, other = (json.loads((tmp_path / name / "eval_results.json").read_text()) for name in ("one", "two"))
    assert other["eval_ema_loss"] == pytest.approx(own["eval_ema_loss"], abs=1e-5)
    assert abs(own["eval_ema_loss"] - own["eval_loss"]) > 1e-4


@pytest.mark.slow
def test_all_processes_evaluate_the_averages_that_are_saved(tmp_path, monkeypatch):
    # each process has its own batch statistics
    for name in ("variant", "config_overrides", "drop_path_rate"):
        monkeypatch.delitem(RECIPE, name)
    monkeypatch.setitem(RECIPE, "model_name_or_path", "timm:test_byobnet")
    monkeypatch.setitem(RECIPE, "image_size", 32)
    monkeypatch.setitem(RECIPE, "ema_decay", 0.9)
    train_in_processes(tmp_path, "two", 2, 8, 1)
    results = json.loads((tmp_path / "two" / "eval_results.json").read_text())
    args = make_args(tmp_path, use_cpu=True)
    again = evaluate(str(tmp_path / "two" / "ema"), DataArguments(dataset_name="digits", max_eval_samples=77), args)
    assert results["eval_ema_loss"] == pytest.approx(again["eval_loss"], abs=1e-5)
