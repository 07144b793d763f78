"""From a folder of images and a teacher to a student, a table and the next commands, with kills in between."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import load_file
from support.patience import PATIENCE
from transformers import AutoModelForImageClassification, pipeline

import deit_hf
from deit_hf import DeiTConfig, DeiTForImageClassification, DistillationTrainer
from deit_hf.commands.distill import main
from deit_hf.jobs import job as job_module
from deit_hf.jobs.arguments import JobArguments
from deit_hf.jobs.distill import run_job
from deit_hf.jobs.job import Job
from deit_hf.jobs.results import DIGITS_SPREAD
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.training import run_figures

TINY = {"patch_size": 8, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 3}
NAMES = ["ant", "bee"]
# a student from scratch that trains in a second
OPTIONS = {
    "variant": "deit_tiny_distilled_patch16_224",
    "image_size": 16,
    "config_overrides": TINY,
    "num_train_epochs": 2,
    "warmup_epochs": 0,
    "per_device_train_batch_size": 8,
    "dataloader_num_workers": 0,
    "dataloader_persistent_workers": False,
    "random_augment": "none",
}


def write_photos(root: Path, sizes: dict[str, int], *, seed: int = 0) -> str:
    """Writes images whose class shows in their colour; returns the root."""
    generator = np.random.default_rng(seed)
    for place, (name, number) in enumerate(sizes.items()):
        (root / name).mkdir(parents=True)
        for i in range(number):
            pixels = generator.integers(0, 100, (20, 24, 3), dtype=np.uint8)
            pixels[..., place % 3] += 120
            PIL.Image.fromarray(pixels).save(root / name / f"{i}.png")
    return str(root)


def write_teacher(path: Path, names: list[str]) -> str:
    torch.manual_seed(1)
    labels = {"id2label": dict(enumerate(names)), "label2id": {name: i for i, name in enumerate(names)}}
    sizes = {**TINY, "hidden_size": 48, "num_hidden_layers": 2}
    config = DeiTConfig(image_size=32, use_distillation_token=False, **sizes, **labels)
    DeiTForImageClassification(config).save_pretrained(path)
    make_processor(32).save_pretrained(path)
    return str(path)


REAL_MEASURE = job_module.measure


@pytest.fixture(autouse=True)
def no_plots_and_measurements(monkeypatch: pytest.MonkeyPatch) -> None:
    """They take most of the time of these tests, and have their own."""
    monkeypatch.setattr(run_figures, "plot_training_curves", lambda history, path: path.touch())
    monkeypatch.setattr(run_figures, "plot_confusion_matrix", lambda report, path, title: path.touch())
    monkeypatch.setattr(run_figures, "draw_views", lambda views, titles, path, **_: path.touch())
    needs = SimpleNamespace(seconds=60.0, num_steps=0, images_per_step=0)
    monkeypatch.setattr(job_module, "measure", lambda *_: needs)


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    return write_photos(tmp_path / "photos", {"ant": 20, "bee": 14})


@pytest.fixture
def teacher(tmp_path: Path) -> str:
    """A teacher of other classes."""
    return write_teacher(tmp_path / "cats", ["cat", "dog", "eel"])


def weights(folder: Path) -> dict:
    return load_file(folder / "model.safetensors")


def options_of(photos: str, teacher: str, **others) -> dict:
    return {**OPTIONS, "dataset_name": photos, "teacher_model_name_or_path": teacher, **others}


def test_a_folder_and_a_teacher_of_other_classes_give_a_student(photos: str, teacher: str, caplog):
    with caplog.at_level("INFO", logger="deit_hf"):
        result = deit_hf.distill(photos, teacher=teacher, compare=True, teacher_epochs=1, **OPTIONS)
    assert result.output_dir == Path("runs/photos")
    assert "estimated time: 3 m 00 s for teacher and student and plain" in caplog.text
    names = ["teacher", "teacher, on the student's views", "student, both heads", "student, class head"]
    names += ["student, distillation head", "student without teacher"]
    assert [line.split("  ")[0] for line in result.table.splitlines()[1:7]] == names
    assert "5 images). The same images chose the best epoch" in result.table
    assert "balanced" in result.table  # the classes are unequal
    assert result.table.splitlines()[-1].startswith("Teacher on the training views of the student: top-1 ")
    assert "mixed views, 95 % interval" in result.table
    assert type(result.model).__name__ == "DeiTForImageClassificationWithTeacher"
    for folder in ("student", "teacher", "plain"):
        model = AutoModelForImageClassification.from_pretrained(result.output_dir / folder)
        assert list(model.config.id2label.values()) == NAMES
    answer = pipeline("image-classification", model=str(result.output_dir / "student"))(f"{photos}/bee/3.png")
    assert {each["label"] for each in answer} == set(NAMES)
    # the teacher was fitted: its classifier alone has changed
    assert "is fine-tuned on the data first, because none of the 2 classes" in caplog.text
    fitted, before = weights(result.output_dir / "teacher"), weights(Path(teacher))
    changed = {name for name in fitted if not torch.equal(fitted[name], before.get(name, torch.tensor(0)))}
    assert changed == {"classifier.weight", "classifier.bias"}
    recipe = (result.output_dir / "plain" / "recipe.yaml").read_text()
    assert "distillation_type: none" in recipe
    assert "variant: deit_tiny_patch16_224" in recipe  # the paper's plain DeiT


def test_a_teacher_of_the_same_classes_is_used_as_it_is(photos: str, tmp_path: Path, caplog):
    teacher = write_teacher(tmp_path / "knows", ["cat", "Bee", "ANT"])
    with caplog.at_level("INFO", logger="deit_hf"):
        outcome = run_job(JobArguments(), options_of(photos, teacher))
    assert outcome.results["runs"] == ["student"]
    assert f"teacher: {teacher} is used as it is" in caplog.text
    assert not (outcome.output_dir / "teacher").exists()


def test_a_push_of_the_student_is_named_after_the_job(photos: str, teacher: str):
    options = options_of(photos, teacher, push_to_hub=True)
    runs = {
        name: Job(JobArguments(compare=True), each, is_main_process=True).runs(Path("runs/photos"))
        for name, each in {"named": {**options, "hub_model_id": "me/mine"}, "not named": options}.items()
    }
    assert runs["named"]["student"].options["hub_model_id"] == "me/mine"
    assert runs["not named"]["student"].options["hub_model_id"] == "photos"
    assert not any("push_to_hub" in runs["named"][name].options for name in ("teacher", "plain"))


def test_epochs_of_the_teacher_decide_whether_it_is_fitted(photos: str, teacher: str, tmp_path: Path):
    known = write_teacher(tmp_path / "knows", NAMES)
    assert run_job(JobArguments(teacher_epochs=1), options_of(photos, known)).results["runs"][0] == "teacher"
    with pytest.raises(ValueError, match="none of the 2 classes of the student .* is a class of teacher"):
        run_job(JobArguments(teacher_epochs=0), options_of(photos, teacher, output_dir="other"))


def test_what_the_teacher_trains_is_an_option(photos: str, teacher: str):
    run_job(JobArguments(teacher_epochs=1, teacher_train_only="all"), options_of(photos, teacher, output_dir="job"))
    fitted, before = weights(Path("job/teacher")), weights(Path(teacher))
    kept = [name for name in before if fitted[name].shape == before[name].shape]
    assert len(kept) > 10
    assert not any(torch.equal(fitted[name], before[name]) for name in kept if name.endswith("weight"))


def test_a_finished_job_is_not_repeated(photos: str, teacher: str, monkeypatch: pytest.MonkeyPatch, caplog):
    options = options_of(photos, teacher)
    first = run_job(JobArguments(teacher_epochs=1), options)
    monkeypatch.setattr(job_module, "train", lambda *_, **__: pytest.fail("a stage was repeated"))
    with caplog.at_level("INFO", logger="deit_hf"):
        again = run_job(JobArguments(teacher_epochs=1), options)
    assert "already finished: runs/photos; nothing to do" in caplog.text
    assert again == first


def test_paths_may_be_objects_and_name_the_same_job(photos: str, teacher: str, monkeypatch: pytest.MonkeyPatch):
    options = {**OPTIONS, "teacher_epochs": 1, "train_dir": Path(photos)}
    first = deit_hf.distill(teacher=Path(teacher), output_dir=Path("job"), **options)
    monkeypatch.setattr(job_module, "train", lambda *_, **__: pytest.fail("a stage was repeated"))
    assert deit_hf.distill(teacher=teacher, output_dir="job", **options).table == first.table


def test_a_comparison_can_be_added_to_a_finished_job(photos: str, teacher: str, monkeypatch: pytest.MonkeyPatch):
    options, trained, stages = options_of(photos, teacher), job_module.train, []

    def counted(*arguments, **others):
        stages.append(Path(arguments[-1].output_dir).name)
        return trained(*arguments, **others)

    monkeypatch.setattr(job_module, "train", counted)
    run_job(JobArguments(teacher_epochs=1), options)
    both = run_job(JobArguments(teacher_epochs=1, compare=True), options)
    assert stages == ["teacher", "student", "plain"]
    assert run_job(JobArguments(teacher_epochs=1), options).results == both.results  # it stays
    again = {**options, "overwrite_output_dir": True, "output_dir": "runs/photos", "seed": 5}
    other = run_job(JobArguments(teacher_epochs=1), again)
    assert stages[3:] == ["teacher", "student"]
    assert other.results["runs"] == ["teacher", "student"]


def test_another_job_gets_the_next_free_folder_and_a_named_folder_is_refused(photos: str, teacher: str):
    job_args = JobArguments(teacher_epochs=1)
    assert run_job(job_args, options_of(photos, teacher)).output_dir == Path("runs/photos")
    other = options_of(photos, teacher, num_train_epochs=1)
    assert run_job(job_args, other).output_dir == Path("runs/photos-2")
    assert run_job(job_args, other).output_dir == Path("runs/photos-2")
    before = sorted(Path("runs/photos").rglob("*"))
    with pytest.raises(ValueError, match=r"runs/photos holds another job: `options` \(num_train_epochs 2, now 1\)"):
        run_job(job_args, {**other, "output_dir": "runs/photos"})
    assert sorted(Path("runs/photos").rglob("*")) == before
    # an image more is other data
    PIL.Image.new("RGB", (20, 20), "red").save(f"{photos}/ant/new.png")
    with pytest.raises(ValueError, match="runs/photos holds another job: `data`"):
        run_job(job_args, options_of(photos, teacher, output_dir="runs/photos"))


def test_no_data_worker_is_left(photos: str, teacher: str, monkeypatch: pytest.MonkeyPatch):
    """Python's garbage collector would wait 5 seconds for each of them."""
    monkeypatch.setattr(job_module, "measure", REAL_MEASURE)
    of_other_tests = multiprocessing.active_children()
    trained, left = job_module.train, []

    def counted(*arguments, **others):
        left.append([each for each in multiprocessing.active_children() if each not in of_other_tests])
        metrics = trained(*arguments, **others)
        left.append([each for each in multiprocessing.active_children() if each not in of_other_tests])
        return metrics

    monkeypatch.setattr(job_module, "train", counted)
    workers = {"dataloader_num_workers": 1, "dataloader_persistent_workers": True}
    run_job(JobArguments(teacher_epochs=1), options_of(photos, teacher, **workers))
    assert left == [[], [], [], []]


def test_default_values_are_the_same_job(photos: str, teacher: str, monkeypatch: pytest.MonkeyPatch):
    run_job(JobArguments(teacher_epochs=1), options_of(photos, teacher))
    monkeypatch.setattr(job_module, "train", lambda *_, **__: pytest.fail("a stage was repeated"))
    same = {"seed": 42, "distillation_type": "hard", "save_strategy": "epoch", "label_smoothing": 0.1}
    again = run_job(JobArguments(teacher_epochs=1), options_of(photos, teacher, **same))
    assert again.output_dir == Path("runs/photos")


def test_a_job_that_has_trained_nothing_may_change(photos: str, teacher: str, monkeypatch: pytest.MonkeyPatch):
    """As after an error about an image, which the user has removed."""
    options = options_of(photos, teacher, output_dir="job")
    for name in ("bad", "good"):
        path = Path(photos) / "ant" / f"{name}.png"
        path.write_bytes(b"" if name == "bad" else (Path(photos) / "ant" / "0.png").read_bytes() + b" ")
    with pytest.raises(ValueError, match=r"bad\.png"):
        run_job(JobArguments(teacher_epochs=1), options)
    assert Path("job/job.json").exists()
    (Path(photos) / "ant" / "bad.png").unlink()
    assert run_job(JobArguments(teacher_epochs=1), options).output_dir == Path("job")
    (Path(photos) / "ant" / "good.png").unlink()  # now it has trained
    with pytest.raises(ValueError, match=r"`data` \((train|evaluation) had \d+ images and has \d+"):
        run_job(JobArguments(teacher_epochs=1), options)


def test_another_teacher_is_measured_again_in_the_folder_of_a_job_that_has_trained_nothing(
    photos: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The first job ends after its teacher was measured; the table must not show that teacher's accuracy."""
    trained, measured = job_module.train, []
    real = job_module.measure_teacher
    monkeypatch.setattr(job_module, "measure_teacher", lambda source, *a: measured.append(source) or real(source, *a))

    def killed(*arguments, **others):
        raise MemoryError("killed")

    monkeypatch.setattr(job_module, "train", killed)
    first, second = (write_teacher(tmp_path / name, names) for name, names in (("one", NAMES), ("two", NAMES[::-1])))
    with pytest.raises(MemoryError):
        run_job(JobArguments(), options_of(photos, first, output_dir="job"))
    monkeypatch.setattr(job_module, "train", trained)
    run_job(JobArguments(), options_of(photos, second, output_dir="job"))
    assert measured == [first, first, second, second]


def test_wrong_types_name_the_argument(photos: str):
    for name in ("data", "teacher", "student", "output_dir"):
        with pytest.raises(TypeError, match=f"`{name}` is a int, but must be a name or a path"):
            deit_hf.distill(**{"data": photos, "teacher": "x", name: 3})
    with pytest.raises(ValueError, match="unknown option `teachr`; did you mean `teacher`"):
        deit_hf.distill(photos, teachr="x")


def test_a_foreign_folder_is_refused_unchanged(photos: str, teacher: str, tmp_path: Path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("words")
    with pytest.raises(FileExistsError, match="mine is not empty and holds no distillation job"):
        run_job(JobArguments(), options_of(photos, teacher, output_dir=str(tmp_path / "mine")))
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


def test_a_killed_job_ends_with_the_same_bits(photos: str, teacher: str, monkeypatch: pytest.MonkeyPatch):
    """Signals before the first run, in the teacher's and in the student's, and an end between the two."""
    monkeypatch.setattr(job_module, "measure", REAL_MEASURE)
    job_args, options = JobArguments(teacher_epochs=2), options_of(photos, teacher)
    whole = run_job(job_args, {**options, "output_dir": "whole"})
    step, kill_at = DistillationTrainer.training_step, [("", 1)]

    def killed(self, *args, **kwargs):
        if kill_at and kill_at[0] == (
            Path(self.args.output_dir).name if kill_at[0][0] else "",
            self.state.global_step,
        ):
            kill_at.pop()
            os.kill(os.getpid(), signal.SIGTERM)
        return step(self, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "training_step", killed)
    for place in [("", 1), ("teacher", 16)]:  # in the first steps that are measured; in a run
        kill_at[:] = [place]
        with pytest.raises(SystemExit) as stopped:
            run_job(job_args, {**options, "output_dir": "killed"})
        assert (stopped.value.code, kill_at) == (75, [])
    trained = job_module.train

    def ends_after_the_teacher(model_args, data_args, args, **others):
        if args.output_dir.endswith("student"):
            raise MemoryError("killed")
        return trained(model_args, data_args, args, **others)

    monkeypatch.setattr(job_module, "train", ends_after_the_teacher)
    with pytest.raises(MemoryError):
        run_job(job_args, {**options, "output_dir": "killed"})
    monkeypatch.setattr(job_module, "train", trained)
    kill_at.append(("student", 3))
    with pytest.raises(SystemExit):
        run_job(job_args, {**options, "output_dir": "killed"})
    resumed = run_job(job_args, {**options, "output_dir": "killed"})
    for folder in ("teacher", "student"):
        one, other = weights(whole.output_dir / folder), weights(resumed.output_dir / folder)
        assert all(torch.equal(one[name], other[name]) for name in one)
    assert [row["top1"] for row in resumed.results["rows"]] == [row["top1"] for row in whole.results["rows"]]


def test_a_test_part_is_measured_once_for_the_table(tmp_path: Path, teacher: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    for seed, part in enumerate(("train", "test")):
        write_photos(tmp_path / "data" / part, {"ant": 10, "bee": 10}, seed=seed)
    monkeypatch.setattr(job_module, "repeats_digits", lambda options: options["image_size"] == 16)  # as the digits
    result = deit_hf.distill(tmp_path / "data", teacher=teacher, teacher_epochs=1, **OPTIONS)
    assert result.table.endswith(DIGITS_SPREAD)
    assert "on the test part (`test`, 20 images), used only for this table" in result.table
    assert not (result.output_dir / "teacher" / "test_results.json").exists()
    measured = json.loads((result.output_dir / "student" / "test_results.json").read_text())
    assert f"{100 * measured['test_top1_average']:.1f}" in result.table.splitlines()[3]


# ---- the command ----


def command(*arguments: str) -> list[str]:
    flags = [word for name, value in OPTIONS.items() for word in (f"--{name}", json.dumps(value).strip('"'))]
    return [*arguments, *flags]


def test_the_command_prints_the_table_and_commands_that_work(photos: str, teacher: str, capsys):
    main(command(photos, "--teacher", teacher, "--teacher_epochs", "1", "-o", "job"))
    printed = capsys.readouterr().out
    assert "student, both heads" in printed
    assert f"deit-hf predict job/student {photos}/" in printed
    assert f"deit-hf evaluate job/student {photos} --train_val_split 0.15" in printed
    assert "{" not in printed


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no data is named; name a folder"),
        (["photos"], "no teacher is named; name one with `--teacher`"),
        (["empty", "--teacher", "cats"], "empty"),
        (["one", "--teacher", "cats"], "one class|2 classes|two"),
        (["nowhere/photos", "--teacher", "cats"], "nowhere/photos"),
        (["photos", "--teacher", "nowhere/teacher/x"], "no directory `nowhere/teacher/x`"),
        (["photos", "--teacher", "backbone"], "is not a trained classifier"),
        (["photos", "--teacher", "cats", "--student", "a", "--variant", "b"], "give one"),
        (["photos", "--teacher", "cats", "--distillation_type", "none"], "this job distils; use 'hard' or 'soft'"),
        (["photos", "--teacher", "cats", "--learning_rat", "1"], "did you mean `learning_rate`"),
        (["photos", "--teacher", "cats", "--streaming", "true"], "holds all rows"),
        (["photos", "--teacher", "cats", "--teacher_cache", "answers"], "a distillation job asks its teacher"),
        (["photos", "--teacher", "cats", "--teacher_epochs", "-1"], "`teacher_epochs` is -1.0, but must be 0 or more"),
    ],
)
def test_wrong_input_is_one_line_and_writes_nothing(photos: str, teacher: str, arguments, message: str, capsys):
    write_photos(Path("one"), {"ant": 3})
    Path("empty").mkdir()
    torch.manual_seed(0)
    deit_hf.DeiTModel(DeiTConfig(image_size=16, **TINY)).save_pretrained("backbone")
    make_processor(16).save_pretrained("backbone")
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert any(part in error[0] for part in message.split("|")), error
    assert not Path("runs").exists()


@pytest.mark.slow
def test_two_processes_do_one_job(photos: str, teacher: str, tmp_path: Path):
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m", "deit_hf"]
    arguments = command("distill", photos, "--teacher", teacher, "--teacher_epochs", "1", "-o", "job")
    for again in (False, True):
        done = subprocess.run(
            [*launch, *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("student, both heads") == 1  # one process prints
        assert ("already finished: job; nothing to do" in done.stderr) == again
    for folder in ("teacher", "student"):
        assert "on each of 2 processes" in (tmp_path / "job" / folder / "recipe.yaml").read_text()
