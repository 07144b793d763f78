"""Cards of trainers' models describe what was trained and measured, and nothing else."""

import re
from pathlib import Path

import datasets
import pytest
import yaml
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from support.local_hub import metadata_errors
from support.trainers import make_args, make_resnet
from transformers import TrainerState, ViTConfig, ViTForImageClassification

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DistillationTrainer
from deit_hf.hub.trainer_facts import metrics_of_weights
from deit_hf.model.image_processing_deit import make_processor


def make_trainer(tmp_path: Path, student, rows, parts=None, teacher=None, **options) -> DistillationTrainer:
    args = make_args(tmp_path, mixup_alpha=0, cutmix_alpha=0, repeated_augmentation=1, max_steps=2, **options)
    processor = make_processor(32)
    return DistillationTrainer(
        student, args, teacher=teacher, train_dataset=rows, eval_dataset=parts, processing_class=processor
    )


def card_of(trainer: DistillationTrainer, **facts) -> str:
    trainer.create_model_card(**facts)
    card = (Path(trainer.args.output_dir) / "README.md").read_text()
    assert metadata_errors(card) == []
    return card


def rows_of(card: str, head: str) -> dict[str, list[str]]:
    """Returns the rows of the table whose header starts with `head`, by their first cells."""
    lines = re.search(rf"^\| {re.escape(head)} .*\n\|[-|]+\n((?:\|.*\n)+)", card, re.MULTILINE)[1].splitlines()
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return {first: rest for first, *rest in cells}


def percent(fraction: float) -> str:
    return f"{100 * fraction:.2f}"


@pytest.fixture
def other_rows(toy_rows: datasets.Dataset) -> datasets.Dataset:
    return toy_rows.filter(lambda row: row["label"] < 2)


def test_trained_and_evaluated_in_python_the_card_has_both(tmp_path, tiny_student, tiny_teacher, toy_rows, other_rows):
    trainer = make_trainer(
        tmp_path, tiny_student, toy_rows, toy_rows.select(range(12)), tiny_teacher, distillation_type="hard"
    )
    trainer.train()
    metrics = {**trainer.evaluate(), **trainer.evaluate(other_rows, metric_key_prefix="test")}
    trainer.predict(toy_rows)  # also has the prefix `test`, but is not an evaluation
    card = card_of(trainer)
    rows = rows_of(card, "output")
    for part, on in (("eval", ""), ("test", ", on test")):
        for head, words in (("average", "mean of both heads (model output)"), ("cls", "class head")):
            names = ("top1", "balanced_accuracy", "macro_f1")
            assert rows[f"{words}{on}"] == [percent(metrics[f"{part}_{name}_{head}"]) for name in names]
    results = {(each.dataset_split, each.metric_name): each.metric_value for each in ModelCard(card).data.eval_results}
    assert results["test", "top-1, class head"] == pytest.approx(metrics["test_top1_cls"], abs=1e-6)
    assert results["test", "macro-F1, class head"] == pytest.approx(metrics["test_macro_f1_cls"], abs=1e-6)
    assert results[None, "top-1, class head"] == pytest.approx(metrics["eval_top1_cls"], abs=1e-6)
    names = {each.dataset_split: each.dataset_name for each in ModelCard(card).data.eval_results}
    assert names == {None: "evaluation split", "test": "data (test)"}
    by_class = rows_of(card.partition("Accuracy of each class")[2], "class")
    (confusion,) = [trainer.class_results()[part]["classes"] for part in ("test",)]
    assert {each["name"]: f"{each['correct']:,} of 8" for each in confusion if each["images"]} == {
        name: cells[1].partition(", ")[2] for name, cells in by_class.items() if cells[1] != "–"
    }
    assert by_class.keys() == {"a", "b", "c", "d", "e"}
    counts = rows_of(card, "class")
    assert counts["all classes"] == ["40", "12", "16"]
    assert [counts[name] for name in "abc"] == [["8", "3", "8"], ["8", "3", "8"], ["8", "2", "0"]]
    assert "A DeiT with class and distillation token, trained, with a TinyConvNet as its teacher." in card
    assert "Optimizer steps: 2; epochs: 0.4." in card
    assert "1 x" not in card
    assert "hard distillation on the distillation head" in card
    assert "distillation_type: hard" in card
    assert (tmp_path / "run" / "model.safetensors").exists() is False  # a card needs no saved model


def test_evaluation_during_the_training_is_the_cards(tmp_path, tiny_student, toy_rows):
    options = {"eval_strategy": "steps", "eval_steps": 1, "learning_rate": 0.3}
    trainer = make_trainer(tmp_path, tiny_student, toy_rows, {"all of it": toy_rows}, **options)
    trainer.train()
    first, last = [
        entry["eval_all of it_loss"] for entry in trainer.state.log_history if "eval_all of it_loss" in entry
    ]
    assert first != last
    (measured,) = [
        entry for entry in trainer.state.log_history if "eval_all of it_top1_cls" in entry and entry["step"] == 2
    ]
    assert rows_of(card_of(trainer), "output")["class head, on all of it"][0] == percent(
        measured["eval_all of it_top1_cls"]
    )


def test_what_was_measured_of_other_weights_is_not_shown(tmp_path, tiny_student, toy_rows):
    trainer = make_trainer(tmp_path, tiny_student, toy_rows, toy_rows)
    trainer.evaluate()
    assert "\nNot measured.\n" not in card_of(trainer)
    assert trainer.class_results().keys() == {"evaluation"}
    trainer.train()
    assert trainer.class_results() == {}
    card = card_of(trainer)
    assert "\nNot measured.\n" in card
    assert "model-index" not in card


def test_only_the_metrics_of_the_weights_that_were_loaded_count():
    log = [
        {"eval_top1": 0.1, "step": 10},
        {"eval_top1": 0.9, "step": 20},
        {"eval_top1": 0.3, "step": 30},
        {"train_runtime": 1.0, "step": 30},
    ]
    state = TrainerState(log_history=log, global_step=30, best_global_step=20, best_model_checkpoint="checkpoint-20")
    assert metrics_of_weights(state, loads_best=True)["eval_top1"] == 0.9
    assert metrics_of_weights(state, loads_best=False)["eval_top1"] == 0.3
    state.log_history.append({"test_top1": 0.5, "eval_top1": 0.8, "step": 30})
    assert metrics_of_weights(state, loads_best=True)["eval_top1"] == 0.8
    assert metrics_of_weights(state, loads_best=True)["test_top1"] == 0.5
    state.best_model_checkpoint = None  # it could not be loaded
    assert metrics_of_weights(TrainerState(log_history=log[:4], global_step=30), loads_best=True)["eval_top1"] == 0.3


def test_a_model_that_was_only_evaluated_was_not_trained(tmp_path, tiny_student, toy_rows):
    tiny_student.save_pretrained(tmp_path / "start")
    student = DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path / "start")
    trainer = make_trainer(tmp_path, student, None, toy_rows)
    trainer.evaluate()
    card = card_of(trainer)
    assert "token with the weights of start." in card
    assert "trained" not in re.sub(r"pretrained|training data", "", card.partition("## Citation")[0])
    assert "## Training" not in card
    assert "distillation" not in ModelCard(card).data.tags
    assert rows_of(card, "class")["all classes"] == ["40"]


def test_a_finished_run_that_is_loaded_again_keeps_its_facts(tmp_path, tiny_student, toy_rows):
    trainer = make_trainer(tmp_path, tiny_student, toy_rows, toy_rows, seed=7)
    trainer.train()
    trainer.save_model()
    trainer.save_state()
    metrics = trainer.evaluate()
    trainer.save_metrics("eval", metrics)
    trainer.write_missing_files()
    loaded = DeiTForImageClassificationWithTeacher.from_pretrained(trainer.args.output_dir)
    again = make_trainer(tmp_path, loaded, None, toy_rows)
    card = card_of(again)
    assert "token, trained." in card
    assert "seed: 7\n" in card
    assert "Optimizer steps: 2; epochs: 0.4." in card
    assert rows_of(card, "output")["class head"][0] == percent(metrics["eval_top1_cls"])
    other = make_trainer(tmp_path, tiny_student, None, toy_rows)  # another model in the same directory
    assert "seed: 7" not in card_of(other)
    assert "Not measured." in card_of(other)


# ---- the kind of model ----


def make_student(kind: str, tmp_path: Path):
    sizes = {"hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 40, "num_hidden_layers": 1}
    sizes |= {"image_size": 32, "patch_size": 8, "num_labels": 5}
    if kind == "resnet":
        return make_resnet()
    if kind == "new DeiT":
        return DeiTForImageClassification(DeiTConfig(**sizes, use_distillation_token=False))
    ViTForImageClassification(ViTConfig(**sizes)).save_pretrained(tmp_path / kind)
    return DeiTForImageClassification.from_pretrained(tmp_path / kind)


DEIT, VIT = "2012.12877", "2010.11929"


@pytest.mark.parametrize(
    ("kind", "words", "cited", "tags"),
    [
        ("resnet", "An image classifier (resnet), trained.", None, ["resnet", "vision"]),
        ("new DeiT", "A DeiT with one head, trained.", DEIT, ["deit", "vision", "arxiv:2012.12877"]),
        ("vit-tiny", "A vision transformer (ViT), fine-tuned from vit-tiny.", VIT, ["vit", "vision"]),
        ("deit-x", "A DeiT with one head, fine-tuned from deit-x.", DEIT, ["deit", "vision", "arxiv:2012.12877"]),
    ],
)
def test_each_kind_of_model_is_called_and_cited_as_what_it_is(tmp_path, toy_rows, kind, words, cited, tags):
    trainer = make_trainer(tmp_path, make_student(kind, tmp_path), toy_rows)
    trainer.train()
    card = card_of(trainer)
    assert words in card
    assert [number for number in (DEIT, VIT) if number in card] == ([cited] if cited else [])
    assert ModelCard(card).data.tags == tags
    assert f"| parameters | {sum(p.numel() for p in trainer.model.parameters()):,} |" in card
    assert "| image size | 32x32 |" in card
    assert "licen" not in card


def test_distillation_of_the_paper_is_cited_on_any_model(tmp_path, tiny_teacher, toy_rows):
    trainer = make_trainer(tmp_path, make_resnet(), toy_rows, None, tiny_teacher, distillation_type="hard")
    trainer.train()
    card = card_of(trainer, license="mit")
    assert "This model uses the distillation of Touvron et al.," in card
    assert ModelCard(card).data.tags == ["resnet", "distillation", "vision", "arxiv:2012.12877"]
    assert ModelCard(card).data.license == "mit"


# ---- arbitrary names ----

HOSTILE = ["a|b", "<script>x</script>", "`tick`", "[x](http://y)", "two\nlines"]


def test_no_name_breaks_the_page_or_the_metadata(tmp_path, tiny_config, toy_rows):
    rows = toy_rows.cast_column("label", datasets.ClassLabel(names=HOSTILE))
    tiny_config.id2label, tiny_config.label2id = dict(enumerate(HOSTILE)), {name: i for i, name in enumerate(HOSTILE)}
    trainer = make_trainer(tmp_path / "<b>|`run`", DeiTForImageClassificationWithTeacher(tiny_config), rows)
    trainer.args.output_dir = str(tmp_path / "<b>|`run` \\*")
    trainer.eval_dataset = {"<i>|`p`[x](y)": rows}
    trainer.train()
    trainer.evaluate()
    words = "<u>|`d`\n---\n```\n# x"
    card = card_of(trainer, dataset=words, teacher=words, evaluated_on=words, environment=words, base_model=words)
    tokens = MarkdownIt("commonmark").enable("table").parse(card.partition("\n---\n\n")[2])
    inline = [child for token in tokens for child in token.children or () if token.type == "inline"]
    assert {child.type for child in inline} <= {
        *("text", "softbreak", "code_inline", "em_open", "em_close", "link_open", "link_close"),
    }
    comments = [token.content for token in tokens if token.type == "html_block"]
    assert len(comments) == 1
    assert comments[0].startswith("<!-- written by deit_hf")
    seen = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    one_line = [*HOSTILE[:4], "two lines"]
    start = seen.index("all classes")
    assert seen[start + 3 : start + 18 : 3] == one_line
    assert "<b>|`run` \\*" in seen
    assert "class head, on <i>|`p`[x](y)" in seen
    metadata = yaml.safe_load(card.split("\n---\n")[0].removeprefix("---\n"))
    assert metadata["model-index"][0]["name"] == "<b>|`run` \\*"
    assert metadata["teacher"] == "<u>|`d` --- ``` # x"


def test_no_path_of_this_machine_is_in_a_card(tmp_path, tiny_student, toy_rows):
    home = tmp_path / "home" / "jane doe"
    tiny_student.save_pretrained(home / "start")
    student = DeiTForImageClassificationWithTeacher.from_pretrained(home / "start")
    trainer = make_trainer(home, student, toy_rows, toy_rows)
    trainer.train()
    trainer.evaluate()
    facts = {"teacher": f"timm:resnet18@{home}/weights.pth", "dataset": f"{home}/photos", "evaluated_on": None}
    card = card_of(trainer, **facts)
    assert "jane" not in card
    assert "with timm:resnet18@weights.pth as its teacher" in card
    assert 'model="run")' in card
    hidden = {"teacher": f"timm:x@{tmp_path}/weights.pth, top-1 50 %"}
    assert "/weights.pth" not in card_of(trainer, effective_recipe=hidden)


def test_a_relative_path_of_a_teacher_is_not_in_a_card(tmp_path, tiny_student, toy_rows, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine/teacher").mkdir(parents=True)
    facts = {"teacher": "mine/teacher", "effective_recipe": {"teacher": "a model, mine/teacher, 20 MB"}}
    card = card_of(make_trainer(tmp_path, tiny_student, toy_rows), **facts)
    assert "a model, teacher, 20 MB" in card
    assert "mine/teacher" not in card
    assert ModelCard(card).data.datasets is None


@pytest.mark.parametrize(("num_labels", "has_top5"), [(5, False), (6, True)])
def test_top5_stands_only_where_there_are_more_classes(tmp_path, tiny_config, toy_rows, num_labels, has_top5):
    tiny_config.num_labels = num_labels
    names = [f"class {i}" for i in range(num_labels)]
    rows = toy_rows.cast_column("label", datasets.ClassLabel(names=names))
    trainer = make_trainer(tmp_path, DeiTForImageClassificationWithTeacher(tiny_config), None, rows)
    trainer.evaluate()
    assert ("top-5" in card_of(trainer)) == has_top5


def test_a_long_list_of_classes_is_shortened(tmp_path, tiny_config, toy_rows):
    tiny_config.num_labels = 60
    rows = toy_rows.cast_column("label", datasets.ClassLabel(names=[f"kind {i}" for i in range(60)]))
    card = card_of(make_trainer(tmp_path, DeiTForImageClassificationWithTeacher(tiny_config), rows))
    table = rows_of(card, "class")
    assert [*table] == ["all classes", "smallest class", "largest class", *(f"kind {i}" for i in range(10))]
    assert [*table.values()][:4] == [["40"], ["0"], ["8"], ["8"]]
    assert "50 more classes are not shown; config.json lists all." in card


def test_images_of_a_stream_and_of_several_labels_are_counted_in_all(tmp_path, tiny_student, toy_rows):
    lists = toy_rows.map(lambda row: {"labels": [row["label"], (row["label"] + 1) % 5]}).remove_columns("label")
    lists = lists.rename_column("labels", "label").select(range(12))
    trainer = make_trainer(tmp_path, tiny_student, toy_rows.to_iterable_dataset(), lists, num_train_samples=30)
    trainer.evaluate()
    card = card_of(trainer)
    assert [*rows_of(card, "class").values()] == [["30", "12"]] + [["–", "–"]] * 5
    assert rows_of(card, "output")["class head"] == [percent(trainer.state.log_history[-1]["eval_top1_cls"])]
