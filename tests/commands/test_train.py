"""Options that a training refuses before it loads anything, and what it writes and logs."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import timm

from deit_hf import DistillationArguments
from deit_hf.commands.evaluate import main as evaluate_main
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.hub.model_facts import file_facts
from deit_hf.hub.run_files import RESULTS
from deit_hf.model.arguments import ModelArguments
from deit_hf.training.run import train
from deit_hf.training.saved_model import evaluate


@pytest.mark.parametrize(
    ("option", "value"), [("num_streams", 2), ("num_train_samples", 9), ("shuffle_buffer_size", 9)]
)
def test_options_of_a_stream_are_refused_without_one(tmp_path: Path, option: str, value: int):
    model_args, data_args = ModelArguments(variant="deit_tiny_patch16_224"), DataArguments(dataset_name="digits")
    with pytest.raises(
        ValueError, match=f"`{option}` is {value}, but only has an effect on a stream; add `--streaming true`"
    ):
        train(model_args, data_args, DistillationArguments(str(tmp_path / "run"), **{option: value}))


def test_class_weights_of_a_stream_are_refused_before_anything_is_loaded(tmp_path: Path):
    data_args = DataArguments(dataset_name="nobody/nothing", streaming=True)
    args = DistillationArguments(str(tmp_path / "run"), class_weighting="balanced")
    with pytest.raises(ValueError, match="`class_weighting` is 'balanced', which needs .* load the data"):
        train(ModelArguments(variant="deit_tiny_patch16_224"), data_args, args)


@pytest.mark.parametrize(
    ("teacher", "kind"), [("somewhere/teacher", "none"), (None, "hard")], ids=["not used", "missing"]
)
def test_teacher_and_what_to_learn_from_it_go_together(tmp_path: Path, teacher: str | None, kind: str):
    """Fails if a run checks this only after loading; the names here cannot be loaded."""
    model_args = ModelArguments(variant="deit_tiny_patch16_224", teacher_model_name_or_path=teacher)
    args = DistillationArguments(str(tmp_path / "run"), report_to="none", distillation_type=kind)
    with pytest.raises(
        ValueError, match=f"`teacher_model_name_or_path` is {teacher} and `distillation_type` '{kind}'"
    ):
        train(model_args, DataArguments(dataset_name="nobody/nothing"), args)


# ---- evaluation data ----

TINY = {"patch_size": 8, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1}


def write_parts(root: Path, *parts: str) -> str:
    """Writes four images of each of two classes in each part, all different; returns the root."""
    generator = np.random.default_rng(0)
    for part in parts:
        for name in ("cat", "dog"):
            (root / part / name).mkdir(parents=True)
            for i in range(4):
                pixels = generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(root / part / name / f"{i}.png")
    return str(root)


def train_on(tmp_path: Path, data: dict, *, variant: str = "deit_tiny_distilled_patch16_224", **options) -> dict:
    options = {"max_steps": 2, "warmup_epochs": 0, "disable_tqdm": True, "save_strategy": "no", **options}
    args = DistillationArguments(
        str(tmp_path / "run"), per_device_train_batch_size=4, learning_rate=1e-3, report_to="none", **options
    )
    return train(ModelArguments(variant=variant, image_size=32, config_overrides=TINY), DataArguments(**data), args)


@pytest.mark.parametrize("options", [{"eval_strategy": "epoch"}, {"eval_on_start": True}])
def test_recipe_that_evaluates_needs_a_part_to_evaluate_on_before_a_model_is_loaded(tmp_path: Path, options: dict):
    root = write_parts(tmp_path / "d", "train", "valid")
    model_args = ModelArguments(model_name_or_path="nobody/nothing")  # cannot be loaded
    args = DistillationArguments(str(tmp_path / "run"), report_to="none", **options)
    message = (
        r"the data has no part to evaluate on \(not used: .*/d/valid\); name one with `--validation_dir` or "
        "`--eval_split`, or set `--eval_strategy no`"
    )
    with pytest.raises(ValueError, match=message):
        train(model_args, DataArguments(train_dir=f"{root}/train"), args)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "options",
    [{"load_best_model_at_end": True, "save_strategy": "epoch"}, {"lr_scheduler_type": "reduce_lr_on_plateau"}],
)
def test_nothing_is_chosen_on_the_test_part_unless_it_is_named(tmp_path: Path, options: dict):
    root = write_parts(tmp_path / "d", "train", "test")
    args = DistillationArguments(str(tmp_path / "run"), report_to="none", eval_strategy="epoch", **options)
    model_args = ModelArguments(model_name_or_path="nobody/nothing")
    with pytest.raises(
        ValueError, match=r"has a test part \(`test`\) but no validation part.*pass `--eval_split test`"
    ):
        train(model_args, DataArguments(dataset_name=root), args)
    with pytest.raises(OSError, match="nobody/nothing"):  # the next error
        train(model_args, DataArguments(dataset_name=root, eval_split="test"), args)


def test_test_part_is_measured_once_at_the_end_and_with_the_final_weights(tmp_path: Path, caplog):
    root = write_parts(tmp_path / "d", "train", "val", "test")
    metrics = train_on(tmp_path, {"dataset_name": root}, eval_strategy="steps", eval_steps=1, ema_decay=0.5)
    test = json.loads((tmp_path / "run" / "test_results.json").read_text())
    state = json.loads((tmp_path / "run" / "trainer_state.json").read_text())
    assert not any("test_loss" in entry for entry in state["log_history"])  # not during the training
    assert {name for name in metrics if name.startswith("test_")} == set()
    assert {"test_top1_average", "test_loss", "test_ema_top1_average"} <= test.keys()
    args = DistillationArguments(str(tmp_path / "other"), report_to="none")
    again = evaluate(str(tmp_path / "run"), DataArguments(validation_dir=f"{root}/test"), args)
    assert test["test_loss"] == pytest.approx(again["eval_loss"], abs=1e-6)
    assert test["test_loss"] != metrics["eval_loss"]


def test_accuracy_of_each_class_is_written_and_is_that_of_the_command(tmp_path: Path):
    root = write_parts(tmp_path / "d", "train", "val", "test")
    train_on(tmp_path, {"dataset_name": root})
    run = tmp_path / "run"
    results = json.loads((run / "class_results.json").read_text())
    for part, folder in (("evaluation", "val"), ("test", "test")):
        evaluate_main([str(run), f"{root}/{folder}", "--per_class_file", str(tmp_path / "again.json")])
        again = json.loads((tmp_path / "again.json").read_text())
        assert results[part] == {name: again[name] for name in ("classes", "confusion")}
    card = (run / "README.md").read_text()
    assert card.count("(confusion_matrix.png)") == 1
    assert (run / "confusion_matrix.png").read_bytes().startswith(b"\x89PNG")
    assert "| class | evaluation | test |" in card
    assert file_facts(run)["by_class"] == {part: report["classes"] for part, report in results.items()}


def test_results_of_an_earlier_run_are_not_left_in_its_directory(tmp_path: Path):
    """Red when a run without a test part keeps, and later pushes, the test results of the run before."""
    root = write_parts(tmp_path / "d", "train", "val", "test")
    train_on(tmp_path, {"dataset_name": root})
    train_on(tmp_path, {"train_dir": f"{root}/train"}, overwrite_output_dir=True, eval_strategy="no")
    names = {path.name for path in (tmp_path / "run").iterdir()}
    assert names & set(RESULTS) == {"train_results.json", "all_results.json"}
    assert not any("test" in name for name in json.loads((tmp_path / "run" / "all_results.json").read_text()))


def test_card_of_a_timm_student_tells_the_model_that_was_trained(tmp_path: Path):
    root = write_parts(tmp_path / "d", "train", "val", "test")
    (tmp_path / "d" / "train" / "cat" / "3.png").unlink()
    args = DistillationArguments(
        str(tmp_path / "run"), per_device_train_batch_size=4, report_to="none", max_steps=1, warmup_epochs=0
    )
    model_args = ModelArguments("timm:test_efficientnet", image_size=32, model_license="mit")
    train(model_args, DataArguments(train_dir=f"{root}/train", validation_dir=f"{root}/val"), args)
    card = (tmp_path / "run" / "README.md").read_text()
    model = timm.create_model("test_efficientnet", num_classes=2)
    for line in (
        "A timm image classifier, trained from scratch on images in train.",
        "| image size | 32x32 |",
        "| classes | 2 |",
        "| architecture | test_efficientnet (timm) |",
        f"| parameters | {sum(p.numel() for p in model.parameters()):,} |",
        "| licence | mit |",
        "license: mit",
        "On images in val (evaluation split), in percent:",
        "| class | training | evaluation |",
        "| cat | 3 | 4 |",
        "| dog | 4 | 4 |",
        "Optimizer steps: 1; epochs: 1.",
        "student           TimmWrapperForImageClassification",
        "train_dir: train",
    ):
        assert f"{line}" in card, line
    assert str(tmp_path) not in card
    assert "2012.12877" not in card
    with pytest.raises(
        ValueError, match="`model_license` is 'MIT License', but must be a licence name of the Hub, such as"
    ):
        ModelArguments("timm:test_efficientnet", model_license="MIT License")


def test_run_says_what_its_data_holds(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    caplog.set_level("INFO", logger="deit_hf")
    root = write_parts(tmp_path / "d", "train", "val")
    (tmp_path / "d" / "train" / "cat" / "x.heic").write_bytes(b"x")
    train_on(tmp_path, {"dataset_name": root})
    messages = [record.getMessage() for record in caplog.records]
    logged = next(index for index, message in enumerate(messages) if message.startswith("The data:\ntrain"))
    assert logged < next(index for index, message in enumerate(messages) if message.startswith("The effective recipe"))
    assert not (tmp_path / "run" / "test_results.json").exists()
    caplog.clear()
    evaluate(str(tmp_path / "run"), DataArguments(dataset_name=root), DistillationArguments(str(tmp_path / "o")))
    assert any(record.getMessage().startswith("The data:\nevaluation (val)") for record in caplog.records)
