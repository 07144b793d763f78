"""Imbalanced training data: weights of the label loss, and the warning."""

import logging

import datasets
import pytest
import torch
from support.trainers import make_args, make_trainer, parameters_of

from deit_hf import DeiTConfig, DistillationArguments, DistillationTrainer
from deit_hf.data.sources.shards import ShardedRows
from deit_hf.training.class_weights import warn_of_imbalance


@pytest.fixture
def imbalanced(toy_rows: datasets.Dataset) -> datasets.Dataset:
    """Eight images of `a`, four of `b`, none of `c`, and eight each of `d` and `e`."""
    b = toy_rows.filter(lambda row: row["label"] == 1).select(range(4))
    return datasets.concatenate_datasets([toy_rows.filter(lambda row: row["label"] in (0, 3, 4)), b])


def first_losses(tmp_path, tiny_config: DeiTConfig, rows, **options) -> dict[str, float]:
    trainer = make_trainer(tmp_path, tiny_config, rows, max_steps=1, **options)
    trainer.train()
    return trainer.state.log_history[0]


def test_weights_follow_from_the_images_of_each_class(tmp_path, tiny_config, imbalanced, caplog):
    caplog.set_level(logging.INFO, logger="deit_hf")
    trainer = make_trainer(tmp_path, tiny_config, imbalanced, class_weighting="balanced", max_steps=1)
    # 28 images in four classes
    assert trainer.class_weights().tolist() == pytest.approx([28 / 32, 28 / 16, 0, 28 / 32, 28 / 32])
    trainer.train()
    assert (
        "(smoothing 0.1, class weights 0.875 to 1.75, 0 for 1 without images)" in trainer.effective_recipe["objective"]
    )
    assert make_trainer(tmp_path, tiny_config, imbalanced).class_weights() is None


@pytest.mark.parametrize("loss", [{}, {"label_loss": "binary_cross_entropy", "label_smoothing": 0.0}])
def test_the_option_changes_the_label_loss_and_no_view(tmp_path, tiny_config, imbalanced, loss):
    plain = first_losses(tmp_path, tiny_config, imbalanced, **loss)
    balanced = first_losses(tmp_path, tiny_config, imbalanced, class_weighting="balanced", **loss)
    assert abs(plain["loss_cls"] - balanced["loss_cls"]) > 1e-3
    even = imbalanced.filter(lambda row: row["label"] in (0, 3, 4))
    with_all = first_losses(tmp_path, tiny_config, even, class_weighting="balanced", label_smoothing=0.0)
    assert with_all["loss"] == pytest.approx(first_losses(tmp_path, tiny_config, even, label_smoothing=0.0)["loss"])


def test_resumed_training_has_the_weights_and_ends_with_the_same_bits(tmp_path, tiny_config, imbalanced):
    options = {"class_weighting": "balanced", "max_steps": 2, "save_strategy": "steps", "save_steps": 1}
    whole = make_trainer(tmp_path, tiny_config, imbalanced, **options)
    whole.train()
    resumed = make_trainer(tmp_path, tiny_config, imbalanced, **options)
    resumed.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-1")
    expected = parameters_of(whole.model)
    assert all(torch.equal(tensor, expected[name]) for name, tensor in parameters_of(resumed.model).items())
    other = make_trainer(tmp_path, tiny_config, imbalanced, **{**options, "class_weighting": "none"})
    with pytest.raises(ValueError, match="`class_weighting` was balanced and is none"):
        other.train(resume_from_checkpoint=f"{whole.args.output_dir}/checkpoint-1")


def test_other_training_rows_are_counted_anew(tmp_path, tiny_config, imbalanced, toy_rows):
    trainer = make_trainer(tmp_path, tiny_config, imbalanced, class_weighting="balanced")
    trainer.train_dataset = make_trainer(tmp_path, tiny_config, toy_rows).train_dataset
    assert trainer.class_weights().tolist() == [1.0] * 5


def test_a_stream_is_refused_when_the_trainer_is_made(tmp_path, tiny_student, toy_rows):
    stream = toy_rows.to_iterable_dataset()
    args = make_args(tmp_path, class_weighting="balanced", num_train_samples=40)
    with pytest.raises(
        ValueError, match="`class_weighting` is 'balanced', which needs .* of a stream .*; load the data"
    ):
        DistillationTrainer(tiny_student, args, train_dataset=ShardedRows(stream))


def test_an_unknown_weighting_is_refused(tmp_path):
    with pytest.raises(ValueError, match="`class_weighting` is 'inverse', but must be"):
        DistillationArguments(str(tmp_path), class_weighting="inverse")


@pytest.mark.parametrize(
    ("counts", "warns"), [([10, 0, 1], True), ([9, 1, 1], False), ([3, 0, 0], False), (None, False)]
)
def test_ten_times_another_classs_images_are_said_with_the_numbers(caplog, counts, warns):
    warn_of_imbalance(counts, ["ant", "bee", "cat"], "none")
    expected = "class `cat` has 1 training images and `ant` has 10, 10 times as many"
    assert [record.getMessage().partition(":")[0] for record in caplog.records] == [expected] * warns
    if warns:
        assert "balanced accuracy (`eval_balanced_accuracy`), and try `--class_weighting balanced`" in caplog.text
    caplog.clear()
    warn_of_imbalance(counts, ["ant", "bee", "cat"], "balanced")
    assert not caplog.records


def test_a_training_says_it(tmp_path, tiny_config, toy_rows, caplog):
    rows = toy_rows.select([*range(0, 40, 5)] * 2 + [1])
    make_trainer(tmp_path, tiny_config, rows, max_steps=1).train()
    assert "class `b` has 1 training images and `a` has 16, 16 times as many" in caplog.text
