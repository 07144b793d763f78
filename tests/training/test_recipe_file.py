"""Recipe files: precedence of flags, recipe and defaults; refused values; a written recipe repeats the run."""

import dataclasses
import logging
from dataclasses import dataclass, field
from pathlib import Path

import datasets
import numpy as np
import pytest
from torch.utils.data import DataLoader

from deit_hf import DistillationArguments
from deit_hf.commands.errors import one_line_errors
from deit_hf.data.dataset import EvaluationViews, ImageDataset
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.transforms import evaluation_view
from deit_hf.evaluation.arguments import EvaluationArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.training.recipe_file import parse_recipe, write_recipe

ALL = (ModelArguments, DataArguments, DistillationArguments)
BASE = "variant: deit_tiny_patch16_224\ndataset_name: digits\noutput_dir: out\nreport_to: none\n"


def write(tmp_path: Path, text: str) -> str:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return str(path)


def parse_training(tmp_path: Path, text: str, *flags: str) -> DistillationArguments:
    return parse_recipe(ALL, [write(tmp_path, BASE + text), *flags])[2]


# ---- reading ----


def test_flags_win_over_the_recipe_and_the_recipe_over_defaults(tmp_path: Path):
    args = parse_training(tmp_path, "mixup_alpha: 0.3\ncutmix_alpha: 0.4\n", "--mixup_alpha", "0.2")
    assert (args.mixup_alpha, args.cutmix_alpha, args.label_smoothing) == (0.2, 0.4, 0.1)


def test_each_class_gets_its_own_options(tmp_path: Path):
    model, data, args = parse_recipe(ALL, [write(tmp_path, BASE + "image_size: 32\nmax_eval_samples: 7\nseed: 3\n")])
    assert (model.variant, model.image_size) == ("deit_tiny_patch16_224", 32)
    assert (data.dataset_name, data.max_eval_samples) == ("digits", 7)
    assert (args.output_dir, args.seed) == ("out", 3)


def test_options_need_no_recipe():
    flags = ["--variant", "deit_tiny_patch16_224", "--dataset_name", "digits", "--seed=4", "--report_to", "none"]
    assert parse_recipe(ALL, flags)[2].seed == 4


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("learning_rate: 5e-4", 5e-4),  # YAML 1.1 reads this as a string, because it has no decimal point
        ("learning_rate: 1.5e-3", 1.5e-3),
        ("mixup_alpha: 0", 0.0),
        ("overwrite_output_dir: yes", True),
        ("overwrite_output_dir: 'true'", True),
        ("save_strategy: no", "no"),  # YAML 1.1 reads this as false
        ("eval_strategy: 'no'", "no"),
        ("run_name: 2024-01-01", "2024-01-01"),
        ("hub_model_id: 123", "123"),
        ("include_for_metrics: [loss]", ["loss"]),
        ("warmup_steps: 10", 10),
    ],
)
def test_values_have_the_type_of_their_option(tmp_path: Path, line: str, expected: object):
    value = getattr(parse_training(tmp_path, line + "\n"), line.partition(":")[0])
    assert value == expected
    assert isinstance(value, type(expected)) or (isinstance(value, float) and value == expected)


def test_mappings_become_dictionaries(tmp_path: Path):
    model = parse_recipe(ALL, [write(tmp_path, BASE + "config_overrides: {hidden_size: 96, patch_size: [4, 8]}\n")])[0]
    assert model.config_overrides == {"hidden_size": 96, "patch_size": [4, 8]}


@dataclass
class _Required:
    model_name_or_path: str = field(metadata={"help": "Needed."})
    batch_size: int = field(default=4, metadata={"help": "Not needed."})


def test_recipe_can_give_a_required_option(tmp_path: Path):
    path = write(tmp_path, "model_name_or_path: x\n")
    (options,) = parse_recipe([_Required], [path, "--batch_size", "8"])
    assert options == _Required("x", 8)
    with pytest.raises(ValueError, match="required: --model_name_or_path.*; see --help"):
        parse_recipe([_Required], ["--batch_size", "8"])


# ---- refusals ----


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("learning_rte: 1", "unknown option `learning_rte`; did you mean `learning_rate`"),
        ("zzzqqq: 1", "unknown option `zzzqqq`; see --help for all"),
        ("1: 1", "unknown option `1`"),
        ("mixup_alpha: abc", "argument --mixup_alpha.*: invalid float value: 'abc'; see --help"),
        ("mixup_alpha: [1, 2]", r"`mixup_alpha` of the recipe is \[1, 2\], but must be a single value of its type"),
        ("mixup_alpha: yes", "`mixup_alpha` of the recipe is True, but must be"),
        ("mixup_alpha:", "`mixup_alpha` of the recipe is None, but must be"),
        ("per_device_train_batch_size: 64.5", "invalid int value: '64.5'"),
        ("distillation_type: sof", "`distillation_type` is 'sof', but must be one of none, soft, hard"),
        ("crop_min_scale: 2", "`crop_min_scale` is 2.0, but must be"),
    ],
)
def test_bad_line_of_a_recipe_is_named(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message):
        parse_training(tmp_path, text + "\n")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--mixup_alpha", "abc"],
            "argument --mixup_alpha.*: invalid float value: 'abc'; see --help for all options$",
        ),
        (["--distillation_type", "sof"], "invalid choice: 'sof'"),
        (["--learning_rat", "1"], "unknown option --learning_rat; did you mean `learning_rate`"),
        (["other.yaml"], "no option takes other.yaml; see --help"),
    ],
)
def test_bad_flag_is_one_line_without_pages_of_usage(tmp_path: Path, flags: list[str], message: str, capsys):
    with pytest.raises(ValueError, match=message):
        parse_training(tmp_path, "", *flags)
    assert capsys.readouterr().err == ""


def test_recipe_may_come_after_flags(tmp_path: Path):
    path = write(tmp_path, BASE + "seed: 2\ndata_seed: 5\n")
    args = parse_recipe(ALL, ["--seed", "3", path])[2]
    assert (args.seed, args.data_seed) == (3, 5)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [1\n", "is not valid YAML: while parsing"),
        ("a:\tb: c\n", "is not valid YAML: "),
        ("- a\n", "holds a list, but must hold lines of `option: value`"),
        ("just words\n", "holds a str, but must"),
        ("", "holds a NoneType, but must"),
    ],
)
def test_file_that_is_no_mapping_is_refused_in_one_line(tmp_path: Path, text: str, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        parse_recipe(ALL, [write(tmp_path, text)])
    assert "\n" not in str(caught.value)


def test_binary_file_is_refused(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="recipe.yaml` is not valid YAML: 'utf-8' codec"):
        parse_recipe(ALL, [str(tmp_path / "recipe.yaml")])


@pytest.mark.parametrize("name", ["none.yaml", "."])
def test_missing_recipe_is_named(tmp_path: Path, name: str):
    with pytest.raises(FileNotFoundError, match="no recipe at `.*`; the recipes .* are in .*deit_hf/recipes"):
        parse_recipe(ALL, [str(tmp_path / name)])


def test_code_in_a_recipe_is_refused_and_not_run(tmp_path: Path):
    mark = tmp_path / "hacked"
    text = f"seed: !!python/object/apply:pathlib.Path.touch [!!python/object/apply:pathlib.Path ['{mark}']]\n"
    with pytest.raises(ValueError, match="is not valid YAML: could not determine a constructor for the tag"):
        parse_training(tmp_path, text)
    assert not mark.exists()


def test_help_names_the_recipe_and_every_option(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit, match="^0$"):
        parse_recipe(ALL, ["--help"], "Trains a model.")
    text = capsys.readouterr().out
    assert "Trains a model." in text
    assert all(f"--{option.name}" in text for cls in ALL for option in dataclasses.fields(cls) if option.init)


# ---- writing ----


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"distillation_type": "hard", "distillation_weight": 0.3, "learning_rate": 1.5e-3},
        {"distillation_type": "soft", "distillation_reduction": "numel", "base_learning_rate": 1e-4},
        {"gradient_accumulation_steps": 16, "seed": 7, "max_steps": 5, "warmup_steps": 10, "save_strategy": "no"},
        {"eval_strategy": "epoch", "report_to": ["tensorboard"], "ddp_find_unused_parameters": False},
        {"random_augment": "none", "mixup_alpha": 0.0, "cutmix_alpha": 0.0, "per_device_train_batch_size": 7},
        {"lr_scheduler_type": "cosine_with_restarts", "lr_scheduler_kwargs": {"num_cycles": 2}, "run_name": "1e3"},
        {"debug": "underflow_overflow", "optim": "sgd", "optim_args": "momentum=0.9", "warmup_epochs": 0.0},
    ],
    ids=lambda options: ",".join(options),
)
def test_written_recipe_gives_the_same_options_again(tmp_path: Path, options: dict, monkeypatch: pytest.MonkeyPatch):
    installed = "deit_hf.training.option_values.get_available_reporting_integrations"
    monkeypatch.setattr(installed, lambda: ["tensorboard"])
    model = ModelArguments(variant="deit_tiny_patch16_224", config_overrides={"hidden_size": 96}, image_size=32)
    data = DataArguments(dataset_name="digits", max_train_samples=7)
    args = DistillationArguments(str(tmp_path), **{"report_to": "none", **options})
    write_recipe(tmp_path / "recipe.yaml", model, data, args)
    again = parse_recipe(ALL, [str(tmp_path / "recipe.yaml")])
    for written, read in zip((model, data, args), again, strict=True):
        pairs = {
            option.name: (getattr(written, option.name), getattr(read, option.name))
            for option in dataclasses.fields(written)
            if option.name != "accelerator_config"  # is compared by identity
        }
        assert {name: pair for name, pair in pairs.items() if pair[0] != pair[1]} == {}


def test_written_recipe_scales_its_base_rate_with_another_batch(tmp_path: Path):
    # the learning rate derived from the first batch size is not written: it would contradict the base learning rate
    args = DistillationArguments(str(tmp_path), report_to="none", per_device_train_batch_size=8)
    write_recipe(tmp_path / "recipe.yaml", args)
    flags = ["--per_device_train_batch_size", "16"]
    (again,) = parse_recipe([DistillationArguments], [str(tmp_path / "recipe.yaml"), *flags])
    assert again.learning_rate == pytest.approx(2 * args.learning_rate, rel=1e-12)


@pytest.mark.parametrize("start", [{"overwrite_output_dir": True}, {"resume_from_checkpoint": "x"}])
def test_written_recipe_says_every_option_of_ours_and_no_secret(tmp_path: Path, start: dict):
    args = DistillationArguments(str(tmp_path), report_to="none", hub_token="hf_secret", **start)
    write_recipe(tmp_path / "recipe.yaml", args)
    text = (tmp_path / "recipe.yaml").read_text(encoding="utf-8")
    assert text.startswith(f"# Repeat with: deit-hf train {tmp_path}/recipe.yaml --output_dir ANOTHER\n")
    assert "hf_secret" not in text
    # a repeated run must neither delete the checkpoints of the first run nor resume from them
    names = {line.partition(":")[0] for line in text.splitlines()}
    assert not names & {"hub_token", "overwrite_output_dir", "resume_from_checkpoint"}
    assert {"distillation_type", "mixup_alpha", "label_smoothing", "base_learning_rate", "warmup_epochs"} <= names


def test_paths_are_written_as_text(tmp_path: Path):
    data = DataArguments(train_dir=tmp_path / "cats")  # type: ignore[arg-type]  # as in Python code
    write_recipe(tmp_path / "recipe.yaml", data)
    (again,) = parse_recipe([DataArguments], [str(tmp_path / "recipe.yaml")])
    assert again.train_dir == str(tmp_path / "cats")


# ---- errors of one line ----


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("`a` is 1,\n  but must be 2"), "error: `a` is 1, but must be 2\n"),
        (FileNotFoundError("no recipe at `x`"), "error: no recipe at `x`\n"),
        (TypeError(), "error: TypeError\n"),
        (ImportError("install scikit-learn"), "error: install scikit-learn\n"),
        (datasets.exceptions.DatasetGenerationError("bad file"), "error: bad file\n"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(error: Exception, line: str, capsys):
    with pytest.raises(SystemExit, match="^2$"), one_line_errors():
        raise error
    captured = capsys.readouterr()
    assert (captured.err, captured.out) == (line, "")


def test_a_defect_of_ours_keeps_its_traceback():
    with pytest.raises(KeyError, match="oops"), one_line_errors():
        raise KeyError("oops")


def test_the_whole_error_is_in_the_debug_log(caplog: pytest.LogCaptureFixture):
    with (
        caplog.at_level(logging.DEBUG, "deit_hf.commands.errors"),
        pytest.raises(SystemExit, match="2"),
        one_line_errors(),
    ):
        raise ValueError("bad")
    assert "Traceback" in caplog.text


@pytest.mark.parametrize("broken", ["missing", "undecodable"])
def test_error_of_a_worker_process_is_one_line_that_names_the_file(tmp_path: Path, broken: str, capsys):
    path = tmp_path / "bad.jpg"
    if broken == "undecodable":
        path.write_text("hello")
    rows = datasets.Dataset.from_dict({"image": [str(path)], "label": np.array([0])})
    images = ImageDataset(
        rows.cast_column("image", datasets.Image()),
        image_column_name="image",
        label_column_name="label",
        num_classes=2,
    )
    loader = DataLoader(EvaluationViews(images, evaluation_view(make_processor(16))), num_workers=1)
    batches = iter(loader)
    with pytest.raises(SystemExit, match="2"), one_line_errors():
        next(batches)
    batches._shutdown_workers()  # the error holds it in a reference cycle, and its collection waits for the worker
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.startswith(f"error: row 0 of the dataset ({path})")
    assert "Traceback" not in error


# ---- names of options, and values with less weight ----

EVALUATION = (EvaluationArguments, DataArguments)
NAMES = {"MODEL": "model_name_or_path", "DATA": "dataset_name"}


@pytest.mark.parametrize(
    "arguments",
    [
        ["m", "digits", "--batch_size", "3"],
        ["--batch_size", "3", "m", "digits"],
        ["m", "--batch_size=3", "digits"],
        ["--model_name_or_path", "m", "--dataset_name", "digits", "--batch_size", "3"],
        ["m", "--dataset-name=digits", "--batch_size", "3"],
        ["recipe.yaml", "m", "digits"],
    ],
)
def test_model_and_data_by_position_or_by_their_flags(arguments: list[str], tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "recipe.yaml").write_text("batch_size: 3\nmodel_name_or_path: other\n")
    options, data = parse_recipe(EVALUATION, arguments, positionals=NAMES)
    assert (options.model_name_or_path, data.dataset_name, options.batch_size) == ("m", "digits", 3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ["m", "digits", "more"],
            "no option takes more, and only MODEL and DATA can be given without one; see --help",
        ),
        (["m", "digits", "--dataset-name", "x"], "DATA `digits` and --dataset-name are both given"),
        ([], "MODEL is missing; name MODEL and DATA first, or see --help"),
    ],
)
def test_wrong_positions_are_refused(arguments: list[str], message: str):
    with pytest.raises(ValueError, match=message):
        parse_recipe(EVALUATION, arguments, positionals=NAMES)


@pytest.mark.parametrize(
    ("recipe", "flags"),
    [
        ("", ["--teacher", "t", "--student", "s", "-o", "out"]),
        ("teacher: t\nstudent: s\noutput_dir: out\n", []),
        ("teacher: x\nstudent: x\n", ["--teacher_model_name_or_path", "t", "--student=s", "-o=out"]),
    ],
)
def test_short_names_mean_the_same(recipe: str, flags: list[str], tmp_path: Path):
    path = write(tmp_path, "dataset_name: digits\nreport_to: none\n" + recipe)
    model, _, args = parse_recipe(ALL, [path, *flags])
    assert (model.teacher_model_name_or_path, model.model_name_or_path, args.output_dir) == ("t", "s", "out")


@pytest.mark.parametrize(
    ("text", "flags", "message"),
    [
        (
            "",
            ["--teacher", "a", "--teacher_model_name_or_path", "a"],
            "--teacher and --teacher_model.* are both given",
        ),
        ("", ["-o", "a", "--output_dir=b"], "-o and --output_dir are both given, but set the same option"),
        ("", ["--evaluate_teacher", "true", "--no_evaluate_teacher"], "are both given"),
        ("teacher: a\nteacher_model_name_or_path: b\n", [], "has both `teacher` and `teacher_model_name_or_path`"),
        ("eval_fusion: softmax_sum\n", [], "unknown option `eval_fusion`; did you mean `fusion`"),
        ("eval_crop_ratio: 1\n", [], "unknown option `eval_crop_ratio`; did you mean .*`crop_ratio`"),
        ("", ["-oDIR"], "unknown option -oDIR"),
    ],
)
def test_two_names_of_one_option_and_old_names_are_refused(text: str, flags: list[str], message: str, tmp_path: Path):
    with pytest.raises(ValueError, match=message):
        parse_training(tmp_path, text, *flags)


def test_given_defaults_weigh_less_than_recipe_and_flags(tmp_path: Path):
    defaults = {"seed": 1, "data_seed": 2, "mixup_alpha": 0.0, "random_augment": "none", "dataset_name": "digits"}
    path = write(tmp_path, "data_seed: 3\nmixup_alpha: 0.25\n")
    flags = ["--mixup_alpha", "0.5", "--variant", "deit_tiny_patch16_224", "-o", "out", "--report_to", "none"]
    _, data, args = parse_recipe(ALL, [path, *flags], defaults=defaults)
    assert data.dataset_name == "digits"
    assert (args.seed, args.data_seed, args.mixup_alpha, args.random_augment) == (1, 3, 0.5, "none")


def test_given_defaults_satisfy_required_options():
    options, _ = parse_recipe(
        EVALUATION, ["digits"], defaults={"model_name_or_path": "m"}, positionals={"DATA": "dataset_name"}
    )
    assert options.model_name_or_path == "m"


def test_shipped_recipe_is_named_without_its_folder(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model, data, _ = parse_recipe(ALL, ["quickstart-plain", "--dataset_name", "x", "--report_to", "none"])
    assert (model.variant, data.dataset_name) == ("deit_tiny_patch16_224", "x")
