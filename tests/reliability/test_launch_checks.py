"""A run whose processes differ from its launch is refused; the configurations of Accelerate start what they name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from accelerate.commands.config import load_config_from_file
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.utils import DistributedType
from support.patience import PATIENCE
from transformers.trainer_pt_utils import AcceleratorConfig

from deit_hf import DeiTConfig, DeiTForImageClassificationWithTeacher, DistillationArguments
from deit_hf.reliability.launch_checks import check_accelerator_config, check_launch, check_ranks

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "scripts" / "accelerate").glob("*.yaml"))
ALONE = {"num_processes": 1, "num_devices": 0, "distributed_type": DistributedType.NO, "asks_for_fsdp": False}
ENVIRONMENT = ("WORLD_SIZE", "RANK", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE", "ACCELERATE_USE_CPU", "ACCELERATE_USE_FSDP")
ENVIRONMENT += ("MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(sys, "argv", ["train.py", "recipe.yaml", "--hub_token", "hf_secret"])


def launched_by(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    """Sets the environment that `accelerate launch` gives to the one process that it starts."""

    class Script:
        returncode = 0

        def __init__(self, command: list[str], env: dict[str, str]):
            for name in env.keys() - os.environ.keys():
                monkeypatch.setenv(name, env[name])

        def wait(self) -> None:
            pass

    monkeypatch.chdir(folder)
    monkeypatch.setattr("accelerate.commands.launch.default_config_file", str(folder / "default.yaml"))
    monkeypatch.setattr("accelerate.commands.config.config_args.default_config_file", str(folder / "default.yaml"))
    monkeypatch.setattr("accelerate.commands.launch.subprocess.Popen", Script)
    # the arguments after `train.py` belong to the script, not to the launcher
    launch_command(launch_command_parser().parse_args([*arguments, "train.py", "--num_processes", "5"]))


@pytest.mark.parametrize(
    ("argv", "program"),
    [
        (["scripts/train.py", "small-data", "--hub_token", "hf_secret"], "scripts/train.py"),
        (["/venv/bin/deit-hf", "train", "small-data", "--hub_token", "hf_secret"], "-m deit_hf train"),
        (["/site-packages/deit_hf/__main__.py", "evaluate", "m", "digits"], "-m deit_hf evaluate"),
    ],
)
def test_error_names_the_command_that_launchers_can_start(argv: list[str], program: str, monkeypatch):
    monkeypatch.setattr(sys, "argv", argv)
    monkeypatch.setenv("WORLD_SIZE", "4")
    with pytest.raises(
        ValueError, match=f"--nproc_per_node 4 {program} [.]{{3}}, or: .*--num_processes 4 {program} [.]"
    ):
        check_ranks()


@pytest.mark.parametrize(
    "arguments", [("--cpu", "--num_processes", "3"), ("--config_file", "three.yaml"), ("--num_processes=3",), ()]
)
def test_processes_that_accelerate_was_asked_for_but_did_not_start_are_an_error(tmp_path, monkeypatch, arguments):
    for name in ("three", "default"):
        (tmp_path / f"{name}.yaml").write_text("{distributed_type: MULTI_CPU, num_processes: 3, use_cpu: true}")
    launched_by(monkeypatch, tmp_path, *arguments)
    with pytest.raises(ValueError, match="`accelerate launch` was asked for several processes") as error:
        check_launch(**ALONE)
    assert "torchrun --nproc_per_node N train.py ..." in str(error.value)
    assert "accelerate launch --multi_gpu --num_processes N train.py ..." in str(error.value)
    assert "hf_secret" not in str(error.value)
    monkeypatch.setenv("WORLD_SIZE", "1")  # set by torchrun, which also sets MASTER_ADDR
    check_launch(**ALONE)


@pytest.mark.parametrize("number", [(), ("--num_processes", "1")])
def test_one_process_that_accelerate_was_asked_for_is_taken(tmp_path, monkeypatch, number):
    launched_by(monkeypatch, tmp_path, "--cpu", *number)
    check_launch(**ALONE)


@pytest.mark.parametrize("name", ["WORLD_SIZE", "PMI_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_processes_of_the_environment_that_did_not_join_are_an_error(monkeypatch, name: str):
    monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match=rf"the environment \({name}\) asks for 2 processes, but 1 would train here"):
        check_launch(**ALONE)
    check_launch(**{**ALONE, "num_processes": 2, "distributed_type": DistributedType.MULTI_CPU})


def test_number_of_processes_without_a_rank_is_an_error_before_anyone_waits(tmp_path, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # without it, Accelerate itself would raise
    with pytest.raises(
        ValueError, match="WORLD_SIZE 2 but no RANK; start the processes with: torchrun --nproc_per_node 2"
    ):
        DistillationArguments(str(tmp_path), report_to="none")
    monkeypatch.setenv("WORLD_SIZE", "1")
    check_ranks()


def test_several_gpus_of_one_process_are_an_error_with_both_ways_out():
    with pytest.raises(ValueError, match="4 GPUs are visible to one process") as error:
        check_launch(**{**ALONE, "num_devices": 4})
    assert "torchrun --nproc_per_node 4 train.py" in str(error.value)
    assert "CUDA_VISIBLE_DEVICES=0 python train.py" in str(error.value)
    check_launch(**{**ALONE, "num_devices": 1})


def test_arguments_pass_on_how_many_gpus_transformers_would_use(tmp_path, monkeypatch):
    monkeypatch.setattr(DistillationArguments, "n_gpu", 2)
    with pytest.raises(ValueError, match="2 GPUs are visible"):
        DistillationArguments(str(tmp_path), report_to="none")


def test_fsdp_that_accelerate_would_leave_out_is_an_error(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="FSDP was asked for, but .* here is `NO`"):
        DistillationArguments(str(tmp_path), report_to="none", fsdp=True)
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    with pytest.raises(ValueError, match="FSDP was asked for, but .* here is `MULTI_CPU`"):
        check_launch(**{**ALONE, "num_processes": 2, "distributed_type": DistributedType.MULTI_CPU})
    check_launch(**{**ALONE, "num_processes": 2, "distributed_type": DistributedType.MULTI_GPU})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"split_batches": True}, "`split_batches`"),
        ({"dispatch_batches": True}, "`dispatch_batches`"),
        ({"even_batches": False}, "`even_batches` false"),
        ({"gradient_accumulation_kwargs": {"num_steps": 4}}, "use `gradient_accumulation_steps`"),
    ],
)
def test_loaders_that_would_change_the_steps_are_refused(tmp_path, options: dict, message: str):
    with pytest.raises(ValueError, match=message):
        DistillationArguments(str(tmp_path), report_to="none", accelerator_config=options)
    check_accelerator_config(AcceleratorConfig(gradient_accumulation_kwargs={}))


@pytest.mark.slow
def test_launch_that_starts_one_of_two_processes_is_one_line_and_no_output(tmp_path):
    command = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    command += [str(ROOT / "scripts" / "train.py"), "--variant", "deit_tiny_patch16_224", "--dataset_name", "digits"]
    command += ["--output_dir", "out", "--report_to", "none"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert result.returncode != 0
    assert "error: `accelerate launch` was asked for several processes" in result.stderr
    assert not (tmp_path / "out").exists()


# ---- precision ----


def test_float16_without_a_gpu_is_an_error_that_names_bfloat16(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="`fp16` is true, but needs a GPU and this run is on CPUs; use `bf16`"):
        DistillationArguments(str(tmp_path), report_to="none", fp16=True, use_cpu=True)


@pytest.mark.parametrize(
    ("configured", "flag", "effective"),
    [("no", True, True), ("bf16", True, True), ("bf16", False, True), ("no", False, False)],
)
def test_precision_is_the_flags_and_without_one_that_of_accelerate(tmp_path, monkeypatch, configured, flag, effective):
    # the flag is set to the effective precision, so that the written recipe records it
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", configured)
    args = DistillationArguments(str(tmp_path), report_to="none", bf16=flag, use_cpu=True)
    assert (args.bf16, args.mixed_precision) == (effective, "bf16" if effective else "no")


# ---- scripts/accelerate ----


def test_there_is_a_configuration_for_each_kind_of_machine():
    names = {path.stem for path in CONFIGS}
    assert names == {"cpu", "one_gpu", "eight_gpus", "fsdp2", "deepspeed_zero2", "multi_node"}


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_accelerates_own_parser_reads_each_configuration(path: Path):
    config = load_config_from_file(str(path))
    expected = {
        "cpu": (DistributedType.MULTI_GPU, 2, 1, True),
        "one_gpu": (DistributedType.NO, 1, 1, False),
        "eight_gpus": (DistributedType.MULTI_GPU, 8, 1, False),
        "fsdp2": (DistributedType.FSDP, 8, 1, False),
        "deepspeed_zero2": (DistributedType.DEEPSPEED, 8, 1, False),
        "multi_node": (DistributedType.MULTI_GPU, 16, 2, False),
    }[path.stem]
    found = (config.distributed_type, config.num_processes, config.num_machines, config.use_cpu)
    assert found == expected
    assert config.mixed_precision == "no"  # the flags of the recipe decide
    head = path.read_text().split("compute_environment")[0]
    assert f"accelerate launch --config_file scripts/accelerate/{path.name}" in head
    assert "Precision: " in head


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_every_option_of_a_part_is_one_of_the_launchers(path: Path):
    # Accelerate passes unknown options on without a warning
    known = {action.dest for action in launch_command_parser()._actions}
    config = load_config_from_file(str(path))
    assert set(config.deepspeed_config) | set(config.fsdp_config) <= known


def test_fsdp2_wraps_layers_that_our_models_have():
    config = load_config_from_file(str(ROOT / "scripts" / "accelerate" / "fsdp2.yaml")).fsdp_config
    model = DeiTForImageClassificationWithTeacher(
        DeiTConfig(hidden_size=24, num_attention_heads=3, num_hidden_layers=2)
    )
    wrapped = [m for m in model.modules() if type(m).__name__ == config["fsdp_transformer_layer_cls_to_wrap"]]
    assert len(wrapped) == 2
    assert config["fsdp_version"] == 2


@pytest.mark.slow
def test_cpu_configuration_starts_two_processes_that_train_together(tmp_path):
    recipe = {"variant": "deit_tiny_patch16_224", "image_size": 16, "dataset_name": "digits", "max_train_samples": 16}
    recipe |= {"config_overrides": {"patch_size": 8, "num_hidden_layers": 1}, "max_eval_samples": 3, "max_steps": 1}
    recipe |= {"per_device_train_batch_size": 2, "output_dir": "out"}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    config = str(ROOT / "scripts" / "accelerate" / "cpu.yaml")
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", config]
    command += [str(ROOT / "scripts" / "train.py"), "recipe.yaml"]
    result = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE, env=dict(os.environ)
    )
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "out" / "recipe.yaml").read_text()
    assert re.search(r"global batch +4 = 2 on each of 2 processes x 1", text)
    assert "use_cpu" not in text  # it depends on the machine, and would prevent a repeated run from using a GPU
