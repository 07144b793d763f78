"""Several processes train and evaluate like one: the same images, mixed the same way, give the same numbers.

The loss curves are equal only without stochastic depth (`drop_path_rate` 0), because each process draws its own.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file
from support.patience import PATIENCE
from support.processes import RECIPE, ROOT, SIZES, column, results, run, train

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher
from deit_hf.evaluation.metric_names import HEADS
from deit_hf.model.image_processing_deit import make_processor

EVERYTHING = {"teacher_model_name_or_path": "teacher", "ema_decay": 0.9, "max_train_samples": 100, "max_steps": 8}


def save_model(model_class: type, folder: Path, **options) -> None:
    """Saves a model whose outputs for two images differ clearly."""
    torch.manual_seed(0)
    config = DeiTConfig.from_variant(
        RECIPE["variant"], **SIZES, image_size=16, num_labels=10, initializer_range=0.5, **options
    )
    model_class(config).save_pretrained(folder)
    make_processor(16).save_pretrained(folder)


@pytest.mark.slow
def test_two_processes_give_the_losses_and_accuracies_of_one(tmp_path: Path):
    one = train(tmp_path, "one", 1, 16, 1)
    two = train(tmp_path, "two", 2, 4, 2)
    for name in ("loss", "loss_cls"):
        assert column(two, name) == pytest.approx(column(one, name), abs=1e-5)
        assert len(column(one, name)) == 12
    own, other = results(tmp_path, "one"), results(tmp_path, "two")
    for name in ("eval_top1_cls", "eval_top1_distillation", "eval_top1_average", "eval_top5_average"):
        assert other[name] == own[name]
    assert other["eval_loss"] == pytest.approx(own["eval_loss"], abs=1e-5)


@pytest.mark.slow
# a step has 24 views: 100 images leave a partial step, ten do not fill one
@pytest.mark.parametrize(("kind", "num_images"), [("hard", 100), ("soft", 10)])
def test_any_number_of_processes_gives_the_curve_of_one_with_everything_on(tmp_path: Path, kind: str, num_images: int):
    save_model(DeiTForImageClassification, tmp_path / "teacher", use_distillation_token=False)
    options = {**EVERYTHING, "distillation_type": kind, "max_train_samples": num_images, "max_eval_samples": 5}
    own = train(tmp_path, "one", 1, 24, 1, **options)
    assert len(column(own, "loss")) == 8
    for num_processes, batch_size, accumulation, more in (
        (2, 4, 3, {"dataloader_num_workers": 2}),
        (3, 4, 2, {}),
        (4, 6, 1, {"dataloader_num_workers": 1}),
    ):
        name = f"{num_processes}x{batch_size}x{accumulation}"
        log = train(tmp_path, name, num_processes, batch_size, accumulation, **options, **more)
        for term in ("loss", "loss_cls", "loss_distillation"):
            assert column(log, term) == pytest.approx(column(own, term), abs=1e-5), (name, term)
        assert column(log, "teacher_agreement") == pytest.approx(column(own, "teacher_agreement"), abs=1e-6), name
        assert column(log, "learning_rate") == column(own, "learning_rate"), name
        for metric in ("eval_loss", "eval_ema_loss"):
            assert results(tmp_path, name)[metric] == pytest.approx(results(tmp_path, "one")[metric], abs=1e-4), name


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_processes_that_were_stopped_end_bit_for_bit_as_two_that_were_not(tmp_path: Path, num_workers: int):
    # with stochastic depth each process has its own random stream, which must continue where it stopped
    save_model(DeiTForImageClassification, tmp_path / "teacher", use_distillation_token=False)
    options = {**EVERYTHING, "distillation_type": "soft", "drop_path_rate": 0.3}
    options |= {"save_strategy": "steps", "save_steps": 5, "dataloader_num_workers": num_workers}
    whole = train(tmp_path, "whole", 2, 4, 2, **options)
    resumed = train(tmp_path, "resumed", 2, 4, 2, **options, resume_from_checkpoint="whole/checkpoint-5")
    assert resumed[:-1] == whole[:-1]  # the last entry contains run times
    for file in ("model.safetensors", "ema/model.safetensors"):
        assert (tmp_path / "resumed" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize(("num_processes", "num_images"), [(2, 77), (2, 5), (4, 5), (2, 1), (3, 1)])
def test_several_processes_evaluate_each_image_once(tmp_path: Path, num_processes: int, num_images: int):
    # images that pad the last batches must not be counted
    save_model(DeiTForImageClassificationWithTeacher, tmp_path / "model")
    labels = [[i % 10, (i + 3) % 10][: i % 3] for i in range(360)]
    (tmp_path / "labels.json").write_text(json.dumps(labels))
    options = ["--model_name_or_path", "model", "--dataset_name", "digits", "--max_eval_samples", str(num_images)]
    options += ["--batch_size", "4", "--fusion", "softmax_sum", "--num_workers", "0"]
    found = []
    for number in (1, num_processes):
        files = ["--per_class_file", "classes.json", "--output", "a.json"]
        run(tmp_path, number, "evaluate_model.py", *options, *files)
        run(tmp_path, number, "evaluate_model.py", *options, "--label_file", "labels.json", "--output", "b.json")
        found.append([json.loads((tmp_path / name).read_text()) for name in ("classes.json", "a.json", "b.json")])
    assert found[0][0] == found[1][0]
    assert sum(pair["count"] for pair in found[0][0]["confusion"]) == num_images
    for one, other in zip(found[0][1:], found[1][1:], strict=True):
        assert {name for name in one if "top" in name} == {f"eval_top{k}_{h}" for k in (1, 5) for h in HEADS}
        for name in one:
            if "top" in name:
                assert one[name] == other[name]
        assert other["eval_loss"] == pytest.approx(one["eval_loss"], rel=1e-5)
        assert one["eval_samples"] == other["eval_samples"] == num_images


@pytest.mark.slow
def test_ddp_wraps_the_student_alone_and_searches_for_no_unused_parameter(tmp_path: Path):
    run(tmp_path, 2, str(ROOT / "tests" / "support" / "ddp_of_a_run.py"))
    report = json.loads((tmp_path / "report.json").read_text())
    assert len(report) == 4
    for found in report:
        assert found["wrapper"] == "DistributedDataParallel"
        assert found["find_unused_parameters"] is False
        assert found["wrapped"] == found["student"]  # no parameter of the teacher
        assert found["teacher"] == "Teacher"
        assert found["collectives_of_teacher"] == []
        assert found["ranks_agree"]


@pytest.mark.slow
def test_fsdp2_trains_saves_and_resumes_as_ddp_does(tmp_path: Path):
    # Accelerate uses FSDP on CPUs only if the processes claim to be GPUs; see fsdp_on_cpus.py
    script = str(ROOT / "tests" / "support" / "fsdp_on_cpus.py")
    save_model(DeiTForImageClassification, tmp_path / "teacher", use_distillation_token=False)
    options = {"teacher_model_name_or_path": "teacher", "distillation_type": "soft", "max_steps": 6}
    config = yaml.safe_load((ROOT / "scripts" / "accelerate" / "fsdp2.yaml").read_text())["fsdp_config"]
    sharded = {**options, "script": script, "fsdp": True, "save_strategy": "steps", "save_steps": 3}
    sharded |= {"fsdp_config": config}
    ddp = train(tmp_path, "ddp", 2, 4, 2, **options)
    fsdp = train(tmp_path, "fsdp", 2, 4, 2, **sharded)
    assert column(fsdp, "loss") == pytest.approx(column(ddp, "loss"), abs=1e-5)
    assert (tmp_path / "fsdp" / "checkpoint-3" / "pytorch_model_fsdp.bin").exists()  # FSDP was used
    resumed = train(tmp_path, "resumed", 2, 4, 2, **sharded, resume_from_checkpoint="fsdp/checkpoint-3")
    assert resumed[:-1] == fsdp[:-1]
    weights = load_file(tmp_path / "ddp" / "model.safetensors")
    for name in ("fsdp", "resumed"):
        saved = load_file(tmp_path / name / "model.safetensors")
        assert saved.keys() == weights.keys()
        for key, tensor in weights.items():
            torch.testing.assert_close(saved[key], tensor, rtol=0, atol=1e-4)
    code = """
import sys, torch
from transformers import AutoModelForImageClassification
sys.modules["deit_hf"] = None
model, info = AutoModelForImageClassification.from_pretrained("fsdp", output_loading_info=True)
assert not info["missing_keys"], info
print(model(torch.ones(1, 3, 16, 16)).logits.sum().item())
"""
    plain = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE
    )
    assert plain.returncode == 0, plain.stderr
    own = DeiTForImageClassificationWithTeacher.from_pretrained(tmp_path / "fsdp")
    with torch.no_grad():
        assert float(plain.stdout) == pytest.approx(own(torch.ones(1, 3, 16, 16)).logits.sum().item(), abs=1e-5)
