"""The best checkpoint is kept when old ones are deleted, and is loaded at the end if the options ask for it."""

from pathlib import Path

import pytest
import torch
from support.trainers import make_args, parameters_of
from transformers import TrainerCallback, ViTConfig, ViTForImageClassification

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationTrainer

LOSSES = {1: 5.0, 2: 1.0, 3: 4.0, 4: 3.0, 5: 2.0}  # by step; the best is the second one


class WithKnownLosses(DistillationTrainer):
    """Evaluates to `LOSSES`."""

    left: list[str]  # checkpoints that exist after the last save
    last_weights: dict[str, torch.Tensor]

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        metrics = {**super().evaluate(*args, **kwargs), "eval_loss": LOSSES[self.state.global_step]}
        self.last_weights = parameters_of(self.model)
        return metrics

    def _save_checkpoint(self, *args: object) -> None:
        super()._save_checkpoint(*args)
        self.left = checkpoints(self)


def checkpoints(trainer: DistillationTrainer) -> list[str]:
    return sorted(path.name for path in Path(trainer.args.output_dir).glob("checkpoint-*"))


def train(folder: Path, tiny_config, toy_rows, student=None, callbacks=None, **options) -> WithKnownLosses:
    options = {"max_steps": 5, "eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", **options}
    args = make_args(folder, **options, save_steps=1, ema_decay=0.5, metric_for_best_model="loss")
    student = DeiTForImageClassificationWithTeacher(tiny_config) if student is None else student
    rows = {"train_dataset": toy_rows.select(range(8)), "eval_dataset": toy_rows.select(range(2))}
    trainer = WithKnownLosses(student, args, callbacks=callbacks, **rows)
    trainer.train()
    return trainer


@pytest.mark.parametrize(("limit", "left"), [(1, [2, 5]), (2, [2, 5]), (3, [2, 4, 5]), (None, [1, 2, 3, 4, 5])])
def test_rotation_keeps_the_best_checkpoint_and_the_last_ones(tmp_path: Path, tiny_config, toy_rows, limit, left):
    trainer = train(tmp_path, tiny_config, toy_rows, save_total_limit=limit, load_best_model_at_end=True)
    output_dir = Path(trainer.args.output_dir)
    assert trainer.left == [f"checkpoint-{step}" for step in left]
    # with a limit of 1, transformers itself deletes the last one at the end
    assert checkpoints(trainer) == (["checkpoint-2"] if limit == 1 else trainer.left)
    assert trainer.state.best_model_checkpoint == str(output_dir / "checkpoint-2")
    assert (trainer.state.best_metric, trainer.state.best_global_step) == (1.0, 2)
    for trained, folder in ((trainer.model, "checkpoint-2"), (trainer.ema.model, "checkpoint-2/ema")):
        best = DeiTForImageClassificationWithTeacher.from_pretrained(output_dir / folder).state_dict()
        assert all(torch.equal(tensor, best[name]) for name, tensor in trained.state_dict().items())
    assert not torch.equal(trainer.last_weights["cls_classifier.weight"], trainer.model.cls_classifier.weight)


def test_without_a_best_model_to_load_the_best_checkpoint_is_kept_too(tmp_path: Path, tiny_config, toy_rows):
    trainer = train(tmp_path, tiny_config, toy_rows, save_total_limit=2)
    assert checkpoints(trainer) == ["checkpoint-2", "checkpoint-5"]
    last = trainer.last_weights["cls_classifier.weight"]
    assert torch.equal(last, trainer.model.cls_classifier.weight)


def test_the_best_weights_of_a_model_with_other_names_on_disk_are_loaded(tmp_path: Path, toy_rows):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    student = ViTForImageClassification(ViTConfig(**sizes, image_size=32, patch_size=16, num_labels=5))
    trainer = train(tmp_path, None, toy_rows, student, load_best_model_at_end=True)
    best = ViTForImageClassification.from_pretrained(f"{trainer.args.output_dir}/checkpoint-2").state_dict()
    assert all(torch.equal(tensor, best[name]) for name, tensor in trainer.model.state_dict().items())
    assert not torch.equal(trainer.last_weights["classifier.weight"], trainer.model.classifier.weight)


class Reads(TrainerCallback):
    """Records `load_best_model_at_end` at both ends of a training, as integrations of transformers read it."""

    def __init__(self) -> None:
        self.values: list[bool] = []

    def on_train_begin(self, args, state, control, **kwargs) -> None:
        self.values.append(args.load_best_model_at_end)

    def on_train_end(self, args, state, control, **kwargs) -> None:
        self.values.append(args.load_best_model_at_end)


def test_callbacks_see_that_the_best_model_is_loaded(tmp_path: Path, tiny_config, toy_rows):
    reads = Reads()
    trainer = train(tmp_path, tiny_config, toy_rows, callbacks=[reads], load_best_model_at_end=True)
    assert (reads.values, trainer.args.load_best_model_at_end) == ([True, True], True)
