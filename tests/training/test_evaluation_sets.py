"""Several evaluation sets by name: each is measured, logged, compared and listed in the card under its name."""

import json
import logging
from pathlib import Path

import pytest
from support.trainers import make_args

from deit_hf import DeiTForImageClassification, DeiTForImageClassificationWithTeacher, DistillationTrainer
from deit_hf.analysis.curves import plot_training_curves
from deit_hf.evaluation.accuracy_text import percent
from deit_hf.evaluation.compare import comparison_table
from deit_hf.evaluation.metric_names import accuracy_name, evaluation_parts
from deit_hf.hub.model_card import render_model_card
from deit_hf.hub.model_facts import ModelFacts
from deit_hf.training.ema import AveragedWeights


def make_trainer(tmp_path: Path, student, rows, parts, teacher=None, **options) -> DistillationTrainer:
    args = make_args(tmp_path, eval_strategy="epoch", **options)
    return DistillationTrainer(student, args, teacher=teacher, train_dataset=rows, eval_dataset=parts)


@pytest.fixture
def parts(toy_rows):
    """Two evaluation sets from 40 rows: classes `a` and `b` (16 rows), and 10 rows of all classes."""
    first = toy_rows.filter(lambda row: row["label"] < 2)
    return {"first": first, "mixed.set_2": toy_rows.select(range(10))}


def test_each_set_has_its_metrics_with_averages_a_teacher_a_best_checkpoint_a_card_and_a_comparison(
    tmp_path, tiny_student, tiny_teacher, toy_rows, parts, caplog
):
    options = {"distillation_type": "hard", "ema_decay": 0.5, "save_strategy": "epoch", "num_train_epochs": 3}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "eval_mixed.set_2_loss"}
    options |= {"greater_is_better": False, "learning_rate": 0.3}  # so large that the last epoch is not the best
    with caplog.at_level(logging.INFO, "deit_hf"):
        trainer = make_trainer(tmp_path, tiny_student, toy_rows, parts, tiny_teacher, **options)
        trainer.train()
    assert f"top-1 on evaluation set `first` {percent(trainer.evaluate_teacher()['top1'])}" in caplog.text
    losses = [log["eval_mixed.set_2_loss"] for log in trainer.state.log_history if "eval_mixed.set_2_loss" in log]
    best = trainer.state.best_model_checkpoint
    assert len(losses) == 3
    assert losses.index(min(losses)) + 1 == trainer.state.best_global_step // 5
    assert json.loads((Path(best) / "trainer_state.json").read_text())["best_metric"] == min(losses)

    metrics = trainer.evaluate()
    alone = {name: trainer.evaluate(rows) for name, rows in parts.items()}
    for part, averaged, head, name in [
        ("first", False, "cls", "top1"),
        ("first", True, "distillation", "top5"),
        ("mixed.set_2", False, "average", "top1"),
        ("mixed.set_2", True, "average", "top1"),
        ("mixed.set_2", True, "", "loss"),
    ]:
        expected = alone[part][accuracy_name(name, head=head, averaged=averaged)]
        assert metrics[accuracy_name(name, part=part, head=head, averaged=averaged)] == expected
    assert metrics["eval_mixed.set_2_loss"] == pytest.approx(min(losses))
    assert evaluation_parts(metrics) == ["first", "mixed.set_2"]

    trainer.save_metrics("eval", metrics)
    trainer.save_model()
    trainer.create_model_card()
    card = (tmp_path / "run" / "README.md").read_text()
    for part in parts:
        top1 = f"{100 * metrics[accuracy_name('top1', part=part, head='average', averaged=True)]:.2f}"
        assert f"| mean of both heads (model output), averaged weights, on {part} | {top1} |" in card
        assert f"name: 'evaluation split: {part}'" in card.partition("\n---\n")[0]
    assert 'subfolder="ema"' in card
    lines = comparison_table([tmp_path / "run"]).splitlines()
    expected = [percent(metrics[accuracy_name("top1", part=part, head="cls")]) for part in parts]
    assert [line.split()[:5] for line in lines[1:]] == [
        ["run", f"[{part}]", "-", *top1.split()] for part, top1 in zip(parts, expected, strict=True)
    ]
    plot_training_curves(trainer.state.log_history, tmp_path / "curves.svg")
    figure = (tmp_path / "curves.svg").read_text(encoding="utf-8")
    assert all(f"<!-- top-1 in % on {part} -->" in figure for part in parts)


def test_a_model_with_one_head_is_evaluated_on_each_set(tmp_path, tiny_config, toy_rows, parts):
    tiny_config.use_distillation_token = False
    metrics = make_trainer(tmp_path, DeiTForImageClassification(tiny_config), toy_rows, parts).evaluate()
    assert {"eval_first_top1", "eval_mixed.set_2_top1"} <= metrics.keys()
    assert evaluation_parts(metrics) == list(parts)


def test_sets_can_be_given_to_one_evaluation_alone(tmp_path, tiny_student, toy_rows, parts):
    trainer = make_trainer(tmp_path, tiny_student, toy_rows, toy_rows)
    metrics = trainer.evaluate(parts)
    assert metrics["eval_first_top1_cls"] == trainer.evaluate(parts["first"])["eval_top1_cls"]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("ema", "a part named 'ema', which is reserved for metrics of averaged weights .*; give it another name"),
        ("ema_2024", "a part named 'ema_2024', which"),
        ("", "a part named '', but a name must be one line and not empty"),
        ("a\nb", r"a part named 'a\\nb', but a name must be one line"),
    ],
)
def test_a_name_that_metrics_cannot_carry_is_refused(tmp_path, tiny_student, toy_rows, name: str, message: str):
    with pytest.raises(ValueError, match=message):
        make_trainer(tmp_path, tiny_student, toy_rows, {name: toy_rows})
    trainer = make_trainer(tmp_path, tiny_student, toy_rows, toy_rows)
    with pytest.raises(ValueError, match=message):
        trainer.evaluate({name: toy_rows})


@pytest.mark.parametrize("name", [1, True, None, b"x", ("a",)])
def test_a_name_that_is_not_a_text_is_refused(tmp_path, tiny_student, toy_rows, name):
    with pytest.raises(TypeError, match="`eval_dataset` has a part named .*, but names must be of type str"):
        make_trainer(tmp_path, tiny_student, toy_rows, {name: toy_rows})


def test_an_empty_dict_is_refused(tmp_path, tiny_student, toy_rows):
    with pytest.raises(ValueError, match="`eval_dataset` is an empty dict"):
        make_trainer(tmp_path, tiny_student, toy_rows, {})


@pytest.mark.parametrize("metric", [None, "eval_top1_average", "first_top1", "eval_ema_first_loss", "first_lost"])
def test_a_best_model_by_a_metric_of_no_set_is_refused_at_once(tmp_path, tiny_student, toy_rows, parts, metric):
    options = {"load_best_model_at_end": True, "save_strategy": "epoch", "metric_for_best_model": metric}
    with pytest.raises(
        ValueError, match="is '.*', but an evaluation here reports eval_first_loss, eval_first_top1_av"
    ):
        make_trainer(tmp_path, tiny_student, toy_rows, parts, **options)


def test_a_best_model_by_a_metric_of_the_only_set_is_checked_too(tmp_path, tiny_student, toy_rows):
    options = {"load_best_model_at_end": True, "save_strategy": "epoch", "metric_for_best_model": "accuracy"}
    with pytest.raises(
        ValueError, match="`metric_for_best_model` is 'accuracy', but an evaluation here reports eval_loss"
    ):
        make_trainer(tmp_path, tiny_student, toy_rows, toy_rows, **options)
    options["metric_for_best_model"] = "top1_average"
    make_trainer(tmp_path, tiny_student, toy_rows, toy_rows, **options)


def test_persistent_workers_serve_the_set_they_were_made_for(tmp_path, tiny_student, tiny_teacher, toy_rows, parts):
    # `Trainer` stores their loaders by the name of the set, which is `eval` for all sets that are given directly
    parts = {"first": parts["first"], "eval": parts["mixed.set_2"]}
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True, "distillation_type": "hard"}
    trainer = make_trainer(tmp_path, tiny_student, toy_rows, parts, tiny_teacher, **options)
    trainer.evaluate_teacher()
    first, second = (trainer.evaluate(rows)["eval_loss"] for rows in parts.values())
    assert first != second
    for metrics in (trainer.evaluate(), trainer.evaluate(dict(parts)), trainer.evaluate()):
        assert (metrics["eval_first_loss"], metrics["eval_eval_loss"]) == (first, second)
    assert trainer.args.dataloader_persistent_workers


def test_plain_rows_assigned_to_the_trainer_are_evaluated(tmp_path, tiny_student, toy_rows, parts):
    trainer = make_trainer(tmp_path, tiny_student, toy_rows, toy_rows)
    expected = trainer.evaluate(parts["first"])["eval_loss"]
    trainer.eval_dataset = parts
    assert trainer.evaluate()["eval_first_loss"] == expected


def test_a_card_and_curves_take_any_name(tmp_path):
    metrics = {"eval_a|b $x_{_top1": 0.5}
    facts = ModelFacts("tiny", (32, 32), 5, two_heads=False, metrics=metrics)
    assert r"| class head (model output), on a\|b \$x\_{ | 50.00 |" in render_model_card(facts)
    plot_training_curves([{"step": 1, **metrics}, {"step": 2, **metrics}], tmp_path / "curves.png")


def test_a_best_model_by_the_averages_of_a_set_is_taken(tmp_path, tiny_config, toy_rows, parts):
    options = {"load_best_model_at_end": True, "save_strategy": "epoch", "ema_decay": 0.5}
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    trainer = make_trainer(
        tmp_path, student, toy_rows, parts, metric_for_best_model="ema_first_top1_average", **options
    )
    trainer.train()
    name = "eval_ema_first_top1_average"
    assert [trainer.state.best_metric] == [log[name] for log in trainer.state.log_history if name in log]
    assert isinstance(trainer.ema, AveragedWeights)


def test_sets_that_do_not_exist_and_several_at_once_are_refused_by_name(tmp_path, tiny_config, toy_rows):
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    args = make_args(tmp_path)
    single = DistillationTrainer(student, args, eval_dataset=toy_rows)
    with pytest.raises(ValueError, match="there is no evaluation set 'b'; .*: none, because `eval_dataset` is not"):
        single.evaluate("b")
    with pytest.raises(TypeError, match="the data is a dict of a, b; pass one of them"):
        single.predict({"a": toy_rows, "b": toy_rows})
    named = DistillationTrainer(student, args, eval_dataset={"a": toy_rows})
    with pytest.raises(ValueError, match="there is no evaluation set 'b'; the named ones are: a"):
        named.evaluate("b")


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"eval_top1": "x"}'])
def test_damaged_results_of_a_run_are_named_by_the_table(tmp_path, content: str):
    (tmp_path / "eval_results.json").write_text(content)
    with pytest.raises(
        ValueError, match="eval_results.json` (is not valid JSON: .*|holds no accuracy .*); evaluate the run aga"
    ):
        comparison_table([tmp_path])


def test_persistent_workers_are_not_those_of_a_set_that_was_replaced(tmp_path, tiny_student, toy_rows):
    """Fails if an evaluation of new rows answers with the old ones."""
    options = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    trainer = DistillationTrainer(tiny_student, make_args(tmp_path, **options), eval_dataset=toy_rows)
    first = trainer.evaluate()["eval_loss"]
    few = toy_rows.select(range(3))
    trainer.eval_dataset = few
    expected = DistillationTrainer(tiny_student, make_args(tmp_path), eval_dataset=few).evaluate()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected["eval_loss"])
    assert first != pytest.approx(expected["eval_loss"])
