"""Mixed precision: the network computes in bfloat16, the objective and the metrics in float32."""

import math

import pytest
import torch

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.distillation.losses import distillation_objective


@pytest.mark.parametrize("kind", ["soft", "hard"])
def test_bfloat16_on_cpus_trains_with_objective_and_metrics_in_float32(
    tmp_path, tiny_config, tiny_teacher, toy_rows, monkeypatch, kind: str
):
    seen, objectives, heads = [], [], set()

    def objective(cls_logits, distillation_logits, targets, teacher_logits, **options):
        terms = distillation_objective(cls_logits, distillation_logits, targets, teacher_logits, **options)
        exact = distillation_objective(
            cls_logits.detach().double(),
            distillation_logits.detach().double(),
            targets.double(),
            teacher_logits.double(),
            **options,
        )
        seen.append({terms.loss.dtype, terms.cls.dtype, terms.distillation.dtype, targets.dtype})
        objectives.append((terms.loss.item(), exact.loss.item()))
        return terms

    monkeypatch.setattr("deit_hf.training.trainer.distillation_objective", objective)
    args = DistillationArguments(
        str(tmp_path / "run"),
        bf16=True,
        use_cpu=True,
        distillation_type=kind,
        max_steps=3,
        per_device_train_batch_size=8,
        logging_steps=1,
        eval_strategy="steps",
        eval_steps=3,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    student.cls_classifier.register_forward_hook(lambda module, inputs, logits: heads.add(logits.dtype))
    before = student.cls_classifier.weight.detach().clone()
    trainer = DistillationTrainer(
        student, args, teacher=tiny_teacher, train_dataset=toy_rows, eval_dataset=toy_rows.select(range(9))
    )
    trainer.train()
    assert heads == {torch.bfloat16}
    assert seen == [{torch.float32}] * 3
    for loss, exact in objectives:
        assert loss == pytest.approx(exact, rel=1e-6)  # bfloat16 would be off by 1e-3
    assert all(parameter.dtype == torch.float32 for parameter in student.parameters())
    assert not torch.equal(student.cls_classifier.weight, before)
    assert trainer.effective_recipe["precision"] == "bf16"
    numbers = [value for entry in trainer.state.log_history for value in entry.values()]
    assert all(math.isfinite(value) for value in numbers)
    (evaluation,) = (entry for entry in trainer.state.log_history if "eval_loss" in entry)
    assert 0 <= evaluation["eval_top1_average"] <= 1
