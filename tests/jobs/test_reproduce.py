"""`deit-hf reproduce`: trains what is left of a table, measures each model once, and shows what the files say."""

import json
import shutil
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from filelock import FileLock

from deit_hf import DeiTConfig, DeiTForImageClassification
from deit_hf.commands.reproduce import main
from deit_hf.data.dataset import ImageDataset
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.sources.load import load_image_parts
from deit_hf.jobs import reproduce as module
from deit_hf.jobs.arguments import ReproduceArguments
from deit_hf.jobs.study_results import measure, read_results, write_results
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.training.arguments import DistillationArguments
from deit_hf.training.saved_model import evaluate

SHORT = ["--num_train_epochs", "1", "--max_train_samples", "64", "--max_eval_samples", "40"]
SHORT += ["--dataloader_num_workers", "0", "--dataloader_persistent_workers", "false", "--use_cpu", "true"]
RUNS = ["plain-seed0", "teacher-convnet", "distilled-seed0", "plain-seed1", "distilled-seed1"]


def start(folder: Path, *more: str) -> None:
    main(["digits", "--seeds", "0", "1", *SHORT, "-o", str(folder), *more])


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    """The finished table `digits` of tiny runs; tests must not change it."""
    folder = tmp_path_factory.mktemp("reproduce")
    start(folder)
    return folder / "digits-cpu"


def copied(finished: Path, folder: Path) -> Path:
    for path in finished.rglob("*"):
        if path.is_file() and not path.name.endswith(".lock"):
            target = folder / "digits-cpu" / path.relative_to(finished)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    return folder / "digits-cpu"


def test_one_line_for_each_run_with_the_accuracy_of_its_model_on_the_test_images(finished: Path):
    lines = read_results(finished)
    assert [line["run"] for line in lines] == RUNS
    assert [line["seed"] for line in lines] == [0, 0, 0, 1, 1]
    data = DataArguments("digits", eval_split="test", max_eval_samples=40)
    for line in lines:
        assert (line["num_images"], line["num_train_images"], line["part"]) == (40, 64, "test")
        args = DistillationArguments(str(finished / "unused"), use_cpu=True, per_device_eval_batch_size=40)
        measured = evaluate(str(finished / "runs" / line["run"]), data, args)
        heads = {"only": "eval_top1", **{head: f"eval_top1_{head}" for head in ("average", "cls", "distillation")}}
        assert line["top1"] == {head: pytest.approx(measured[heads[head]]) for head in line["top1"]}
        assert [*line["cosines"]] == (["input", "layers", "output"] if line["row"] == "distilled" else [])
        assert line["teacher"] == ("teacher-convnet" if line["row"] == "distilled" else None)
        assert line["seconds"] > 0
        assert line["options"]["num_train_epochs"] == 1
    weights = [(finished / "runs" / name / "model.safetensors").read_bytes() for name in RUNS]
    assert len({*weights}) == len(RUNS)  # each seed has its own


def test_results_name_no_path_of_the_machine(finished: Path):
    assert str(finished.parent) not in (finished / "results.jsonl").read_text()


def test_a_finished_table_is_left_as_it_is_and_printed(finished: Path, capsys, monkeypatch):
    monkeypatch.setattr(module, "train", None)  # would raise
    before = (finished / "results.jsonl").read_bytes()
    start(finished.parent)
    assert (finished / "results.jsonl").read_bytes() == before
    printed = capsys.readouterr().out
    assert "5 runs in" in printed
    assert "0 of them to do" in printed
    plain = [100 * line["top1"]["only"] for line in read_results(finished) if line["row"] == "plain"]
    assert f"| plain | 2 | {np.mean(plain):.1f} ± {np.std(plain, ddof=1):.1f} |" in printed


def test_the_same_call_continues_after_an_error_with_the_runs_that_are_left(finished: Path, tmp_path, monkeypatch):
    folder = copied(finished, tmp_path)
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(lines[:2]))  # as if it was killed then
    shutil.rmtree(folder / "runs" / "distilled-seed1")
    trained = []
    real = module.train
    monkeypatch.setattr(
        module, "train", lambda *args, **options: trained.append(args[2].output_dir) or real(*args, **options)
    )
    start(tmp_path)
    assert [Path(each).name for each in trained] == ["distilled-seed0", "plain-seed1", "distilled-seed1"]
    assert {line["run"] for line in read_results(folder)} == {*RUNS}
    for old, new in zip(read_results(finished), read_results(folder), strict=True):
        assert (new["top1"], new["cosines"], new["model"]) == (old["top1"], old["cosines"], old["model"])
    times = {line["run"]: line["seconds"] for line in read_results(folder)}
    # the time of a model that was found is unknown: a resumed training only knows that of its last part
    assert times["distilled-seed0"] is times["plain-seed1"] is None
    assert times["distilled-seed1"] > 0


def test_models_that_were_trained_otherwise_get_no_result(finished: Path, tmp_path, capsys):
    """Red when a folder without results.jsonl records a model under options that it was not trained with."""
    folder = copied(finished, tmp_path)
    (folder / "results.jsonl").unlink()
    longer = [*SHORT, "--num_train_epochs", "2"]
    with pytest.raises(SystemExit, match="2"):
        main(["digits", "--rows", "plain", "--seeds", "0", *longer, "-o", str(tmp_path)])
    error = capsys.readouterr().err
    assert (
        "runs/plain-seed0 holds a model that was trained otherwise (`options` (num_train_epochs 1.0, now 2.0))"
        in error
    )
    shutil.rmtree(folder / "runs" / "plain-seed0")
    main(["digits", "--rows", "plain", "--seeds", "0", *longer, "-o", str(tmp_path)])
    assert [line["run"] for line in read_results(folder)] == ["plain-seed0"]


@pytest.mark.parametrize(
    "damage", [lambda path: path.unlink(), lambda path: path.write_bytes(path.read_bytes()[:-1] + b"x")]
)
def test_nothing_is_learned_from_a_teacher_whose_weights_are_not_those_of_its_result(
    finished: Path, tmp_path, capsys, damage
):
    folder = copied(finished, tmp_path)
    damage(folder / "runs" / "teacher-convnet" / "model.safetensors")
    with pytest.raises(SystemExit, match="2"):
        main(["digits", "--rows", "distilled", "--seeds", "2", *SHORT, "-o", str(tmp_path)])
    error = capsys.readouterr().err
    assert "runs/teacher-convnet does not hold the weights of its result" in error
    assert "delete the directory, and the same command trains it again" in error


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> Path:
    """Two datasets of noise of two classes in `a` and `b`, and two tiny students."""
    root = tmp_path_factory.mktemp("transfer")
    for seed, name in enumerate("ab"):
        generator = np.random.default_rng(seed)
        for part, number in (("train", 52), ("test", 4)):
            for kind in ("cat", "dog"):
                (root / name / part / kind).mkdir(parents=True)
                for i in range(number):
                    pixels = generator.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                    PIL.Image.fromarray(pixels).save(root / name / part / kind / f"{i}.png")
        torch.manual_seed(seed)
        config = DeiTConfig(
            image_size=112,
            patch_size=16,
            hidden_size=8,
            num_attention_heads=1,
            num_hidden_layers=1,
            intermediate_size=8,
        )
        DeiTForImageClassification(config).save_pretrained(root / f"student-{name}" / "m")
        make_processor(112).save_pretrained(root / f"student-{name}" / "m")
    (root / "few" / "test").mkdir(parents=True)
    for part, number in (("train", 30), ("test", 4)):
        for kind in ("cat", "dog"):
            (root / "few" / part / kind).mkdir(parents=True)
            for i in range(number):
                shutil.copy(root / "a" / "train" / kind / f"{i}.png", root / "few" / part / kind)
    short = ["--num_train_epochs", "1", "--dataloader_num_workers", "0", "--use_cpu", "true", "--seeds", "0"]
    student = ["--student", str(root / "student-a" / "m"), "--dataset_name", str(root / "a")]
    main(["transfer", "--rows", "none-50", *student, *short, "-o", str(root / "out")])
    return root


@pytest.mark.parametrize(
    ("data", "student", "more", "message"),
    [
        ("b", "a", [], "holds a result of none-50-seed0 with other images (test)"),
        ("a", "b", [], "holds a result of none-50-seed0 with other options (`weights` (model.safetensors"),
        ("few", "a", [], "a row trains on 100 images, but the data has 60 to train on"),
        ("a", "a", ["--teacher", "x"], "the rows none-100 have no teacher; leave out --teacher"),
    ],
)
def test_rows_of_other_images_or_weights_do_not_get_into_one_table(
    folders: Path, tmp_path, capsys, data, student, more, message
):
    shutil.copytree(folders / "out" / "transfer-cpu", tmp_path / "transfer-cpu")
    options = ["--student", str(folders / f"student-{student}" / "m"), "--dataset_name", str(folders / data)]
    options += ["--num_train_epochs", "1", "--dataloader_num_workers", "0", "--seeds", "0", *more]
    with pytest.raises(SystemExit, match="2"):
        main(["transfer", "--rows", "none-100", *options, "-o", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_the_report_names_the_weights_and_shows_rows_without_a_comparison(folders: Path, capsys):
    main(["transfer", "--show", "--rows", "none-50", "--num_train_epochs", "1", "-o", str(folders / "out")])
    shown = capsys.readouterr()
    (line,) = read_results(folders / "out" / "transfer-cpu")
    assert f"| none-50 | 1 | {100 * line['top1']['only']:.1f} |" in shown.out
    assert "Pretrained weights: `m`." in shown.out
    assert "--show reads results and does not use num_train_epochs, rows\n" in shown.err


def test_results_do_not_go_into_a_file(tmp_path, capsys):
    (tmp_path / "out").touch()
    with pytest.raises(SystemExit, match="2"):
        start(tmp_path / "out")
    assert "out is a file; name a directory" in capsys.readouterr().err


def test_a_teacher_whose_model_is_gone_is_trained_again_for_a_new_seed(finished: Path, tmp_path):
    """As in a folder that holds only results."""
    folder = copied(finished, tmp_path)
    shutil.rmtree(folder / "runs" / "teacher-convnet")
    main(["digits", "--rows", "distilled", "--seeds", "1", "2", *SHORT, "-o", str(tmp_path)])
    assert [line["run"] for line in read_results(folder)] == [
        *[name for name in RUNS if name != "teacher-convnet"],
        "teacher-convnet",
        "distilled-seed2",
    ]
    assert (folder / "runs" / "teacher-convnet" / "model.safetensors").is_file()


def test_a_run_of_another_process_is_left_to_it_and_awaited(finished: Path, tmp_path, monkeypatch):
    folder = copied(finished, tmp_path)
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(lines[1:]))
    other = FileLock(folder / "runs" / "plain-seed0.lock")
    other.acquire()

    def finish_there(seconds: float) -> None:
        (folder / "results.jsonl").write_text("".join(lines))
        other.release()

    monkeypatch.setattr(module.time, "sleep", finish_there)
    monkeypatch.setattr(module, "train", None)  # would raise
    start(tmp_path)
    assert not other.is_locked


def test_a_teacher_that_another_process_has_not_recorded_yet_is_awaited(finished: Path, tmp_path, monkeypatch):
    """Its model is finished before its result is written, so both may differ."""
    folder = copied(finished, tmp_path)
    lines = (folder / "results.jsonl").read_text().splitlines(keepends=True)
    (folder / "results.jsonl").write_text("".join(lines[:-1]))
    other, train = FileLock(folder / "runs" / "teacher-convnet.lock"), module.train
    other.acquire()
    monkeypatch.setattr(module.time, "sleep", lambda seconds: other.release())

    def train_with_that_teacher(*args, **options):
        assert not other.is_locked
        return train(*args, **options)

    monkeypatch.setattr(module, "train", train_with_that_teacher)
    start(tmp_path)
    assert [line["run"] for line in read_results(folder)] == RUNS


def test_answers_are_in_the_order_of_the_data_whatever_that_of_the_model_is(folders: Path, tmp_path):
    rows = load_image_parts(DataArguments(str(folders / "a"))).train
    images = ImageDataset(rows, num_classes=2, image_column_name="image", label_column_name="label")
    args = DistillationArguments(str(tmp_path / "unused"), use_cpu=True)
    own = DeiTForImageClassification.from_pretrained(folders / "student-a" / "m", num_labels=2)
    torch.nn.init.normal_(own.classifier.weight)
    answers = {}
    for order in ([0, 1], [1, 0]):
        own.config.id2label = {i: ("cat", "dog")[label] for i, label in enumerate(order)}
        own.save_pretrained(tmp_path / "m")
        make_processor(112).save_pretrained(tmp_path / "m")
        answers[order[0]], _ = measure(tmp_path / "m", images, ["cat", "dog"], args)
        own.classifier.weight.data = own.classifier.weight.data[[1, 0]]
        own.classifier.bias.data = own.classifier.bias.data[[1, 0]]
    for name in ("only", "labels"):
        np.testing.assert_array_equal(answers[0][name], answers[1][name])


def test_a_validation_part_is_not_reported_as_test_images(folders: Path, tmp_path, capsys):
    shutil.copytree(folders / "a" / "train", tmp_path / "data" / "train")
    shutil.copytree(folders / "a" / "test", tmp_path / "data" / "val")
    given = ["--student", str(folders / "student-a" / "m"), "--dataset_name", str(tmp_path / "data")]
    with pytest.raises(SystemExit, match="2"):
        main(["transfer", "--rows", "none-50", *given, "--num_train_epochs", "1", "-o", str(tmp_path / "out")])
    assert "the data has no test part to measure the models on (train, val)" in capsys.readouterr().err


def test_settings_can_be_chosen_on_training_images_that_no_run_trains_on(tmp_path):
    main(["digits", "--rows", "plain", "--seeds", "0", "--part", "validation", *SHORT, "-o", str(tmp_path)])
    (line,) = read_results(tmp_path / "digits-cpu-validation")
    assert (line["part"], line["num_images"]) == ("validation", 40)
    held_out = load_image_parts(
        DataArguments("digits", train_val_split=0.33, max_train_samples=64, max_eval_samples=40)
    )
    pixels = [
        {np.asarray(image).tobytes() for image in part["image"]} for part in (held_out.train, held_out.evaluation)
    ]
    assert not pixels[0] & pixels[1]
    labels = np.load(tmp_path / "digits-cpu-validation" / "answers" / "plain-seed0.npz")["labels"]
    assert labels.tolist() == held_out.evaluation["label"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits", "--seed", "3"], "`seed` is set by the rows of a table; name the seeds with `--seeds`"),
        (["digits", "--learning_rate", "1"], "`learning_rate` is set by the rows of a table; leave it out"),
        (["digits", "--push_to_hub", "true"], "`push_to_hub` is set by"),
        (["digits", "--student", "x"], "no row of the study digits starts from weights"),
        (["transfer"], "this table is for data of your own; name it with `--dataset_name`"),
        (["table2", "--rows", "usual-hard"], "`rows` is 'usual-hard', but must be one of none, token-hard-weak,"),
        (["digits", "--part", "validation", "--eval_split", "test"], "`eval_split` is test, but `part` is validation"),
        (["digits", "--rows", "plaim"], "`rows` is 'plaim', but must be one of plain, distilled"),
        (["digits", "--seeds", "1", "1"], "`seeds` is [1, 1]; name at least one, and each once"),
        (["digits", "--seeds", "-1"], "`seeds` is -1, but must be 0 or more"),
        (["digits", "--part", "train"], "`part` is 'train', but must be one of test, validation"),
        (["digits", "--protocol", "gpu"], "`protocol` is 'gpu', but must be one of cpu"),
        ([], "no table is named"),
        (["table9"], "`table` is 'table9', but must be one of"),
        (["digits", "--show"], "no results of digits under"),
        (
            ["digits", "--num_train_epochs", "0"],
            "`num_train_epochs` is 0 and `max_steps` is -1, so there is nothing to train",
        ),
        (["digits", "--max_train_samples", "0"], "`max_train_samples` is 0"),
        (["transfer", "--dataset_name", "no-such-folder/"], "no-such-folder"),
    ],
)
def test_what_cannot_be_done_is_refused_in_one_line(arguments, message, tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "-o", str(tmp_path / "new")])
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not (tmp_path / "new").exists()


def test_a_launch_of_several_processes_is_refused(monkeypatch, tmp_path):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="WORLD_SIZE is 2, but each run of a table has one process"):
        module.reproduce(ReproduceArguments("digits"), {}, tmp_path)


def test_results_of_other_options_are_not_mixed(finished: Path, tmp_path, capsys):
    copied(finished, tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["digits", "--seeds", "0", "--num_train_epochs", "2", "-o", str(tmp_path)])
    error = capsys.readouterr().err
    assert "holds a result of plain-seed0 with other options" in error
    assert "num_train_epochs" in error


def test_a_seed_that_other_images_would_measure_is_not_mixed_with_the_others(finished: Path, tmp_path, capsys):
    copied(finished, tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(["digits", "--rows", "plain", "--seeds", "7", *SHORT, "--max_eval_samples", "30", "-o", str(tmp_path)])
    assert "holds a result of plain-seed0 with other options (`max_eval_samples`" in capsys.readouterr().err


def test_results_of_other_images_are_not_mixed(finished: Path, tmp_path, capsys):
    folder = copied(finished, tmp_path)
    lines = (folder / "results.jsonl").read_text()
    train = json.loads(lines.splitlines()[0])["data"]["train"]["pictures"]
    (folder / "results.jsonl").write_text(lines.replace(train, "0" * len(train)))
    with pytest.raises(SystemExit, match="2"):
        start(tmp_path)
    assert "holds a result of plain-seed0 with other images (train)" in capsys.readouterr().err


def test_without_data_workers_none_are_kept(tmp_path, monkeypatch):
    """The recipes keep their data workers from epoch to epoch, which transformers refuses without workers."""
    seen = []

    def stop(model_args: object, data_args: object, args: DistillationArguments, **options: object) -> None:
        seen.append((args.dataloader_num_workers, args.dataloader_persistent_workers))
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "train", stop)
    options = ["--rows", "plain", "--seeds", "0", "--dataloader_num_workers", "0", "-o", str(tmp_path)]
    with pytest.raises(KeyboardInterrupt):
        main(["digits", *options])
    assert seen == [(0, False)]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda path: path.write_bytes(path.read_bytes()[:100]),
            "plain-seed0.npz` is damaged; delete it and its line",
        ),
        (lambda path: path.write_bytes(b""), "plain-seed0.npz` is damaged"),
        (
            lambda path: path.write_bytes(path.read_bytes()[:60] + b"\xff" * 15 + path.read_bytes()[75:]),
            "plain-seed0.npz` is damaged",
        ),
        (lambda path: np.savez(path, labels=np.array(["a"], object)), "plain-seed0.npz` is damaged"),
        (lambda path: np.savez(path, labels=np.zeros(3), only=np.zeros(3)), "does not have the answers of its line"),
        (lambda path: shutil.copy(path.with_name("plain-seed1.npz"), path), "does not have the answers of its line"),
        (lambda path: path.unlink(), "plain-seed0.npz` is missing"),
    ],
    ids=["cut", "empty", "overwritten", "pickled", "other length", "of another run", "missing"],
)
def test_damaged_answers_are_named_in_one_line(finished: Path, tmp_path, capsys, damage, message):
    folder = copied(finished, tmp_path)
    damage(folder / "answers" / "plain-seed0.npz")
    with pytest.raises(SystemExit, match="2"):
        main(["digits", "--show", "-o", str(tmp_path)])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [("{}", "line 6, lacks "), ("[1]", "line 6, lacks "), ("{", "line 6, is damaged"), ("\xff", "line 6, is damaged")],
)
def test_damaged_lines_are_named(finished: Path, tmp_path, capsys, line, message):
    folder = copied(finished, tmp_path)
    with (folder / "results.jsonl").open("ab") as file:
        file.write(line.encode("latin-1"))
    with pytest.raises(SystemExit, match="2"):
        main(["digits", "--show", "-o", str(tmp_path)])
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"protocol": "cpu"', '"protocol": "zpu"', "protocol zpu, but the study digits has no such row"),
        ('"top1": {"only"', '"top1": {"first"', "line 1, has `top1` {'first'"),
        ('"seed": 0', '"seed": "0"', "line 1, has `seed` '0', which no run writes"),
        ('"num_images": 40', '"num_images": null', "line 1, has `num_images` None, which no run writes"),
        ('"run": "plain-seed1"', '"run": "plain-seed0"', "line 4, is of plain-seed0, as a line before it"),
        ('"run": "teacher-convnet"', '"run": "teacher"', "lacks a line of teacher-convnet, which other lines name"),
    ],
)
def test_changed_lines_are_named(finished: Path, tmp_path, capsys, old, new, message):
    folder = copied(finished, tmp_path)
    text = (folder / "results.jsonl").read_text()
    assert old in text
    (folder / "results.jsonl").write_text(text.replace(old, new))
    with pytest.raises(SystemExit, match="2"):
        main(["digits", "--show", "-o", str(tmp_path)])
    assert message in capsys.readouterr().err


def test_a_row_that_the_study_does_not_have_is_named(finished: Path, tmp_path, capsys):
    folder = copied(finished, tmp_path)
    lines = (folder / "results.jsonl").read_text()
    (folder / "results.jsonl").write_text(lines.replace('"row": "plain"', '"row": "plein"') + "\n\n")
    with pytest.raises(SystemExit, match="2"):
        main(["digits", "--show", "-o", str(tmp_path)])
    assert "has a result of the row plein" in capsys.readouterr().err


def test_show_writes_what_the_files_say(finished: Path, tmp_path, capsys):
    folder = copied(finished, tmp_path)
    main(["digits", "--show", "-o", str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    shown = capsys.readouterr().out
    assert shown.strip().partition("\n\n")[2] in text
    answers = {name: np.load(folder / "answers" / f"{name}.npz") for name in RUNS}
    right = {
        name: each["average" if "distilled" in name else "only"] == each["labels"] for name, each in answers.items()
    }
    by_seed = [100 * np.mean(right[f"distilled-seed{n}"]) - 100 * np.mean(right[f"plain-seed{n}"]) for n in (0, 1)]
    by_image = np.mean([right[f"distilled-seed{n}"].astype(float) - right[f"plain-seed{n}"] for n in (0, 1)], axis=0)
    error = np.hypot(np.std(by_seed, ddof=1) / 2**0.5, 100 * np.std(by_image, ddof=1) / 40**0.5)
    assert f"| plain | {np.mean(by_seed):+.1f} ± {error:.1f} |" in text
    differ = np.mean(
        [np.mean(answers[f"distilled-seed{n}"]["cls"] != answers[f"plain-seed{n}"]["only"]) for n in (0, 1)]
    )
    row = next(line for line in text.splitlines() if line.startswith("| class head | "))
    assert row.split(" | ")[3] == f"{differ:.3f}"
    cosines = [line["cosines"]["input"] for line in read_results(folder) if line["cosines"]]
    assert f"| distilled | 2 | {np.mean(cosines):.3f} ± {np.std(cosines, ddof=1):.3f} |" in text
    assert "Not with the options of this package's tables, but with `num_train_epochs` 1, `max_train" in text
    assert (tmp_path / "digits-cpu-digits.png").read_bytes()[:4] == b"\x89PNG"


def test_a_teacher_that_was_trained_again_is_another_one(finished: Path, tmp_path):
    """Its answers and its views are not shown with students of the earlier one."""
    folder = copied(finished, tmp_path)
    lines = read_results(folder)
    lines[-1]["teacher_top1"] = 0.975
    lines[-1]["teacher_fit"] = {"teacher_top1_on_views": 0.25, "teacher_views": 16}
    write_results(folder, lines)
    main(["digits", "--show", "-o", str(tmp_path)])
    text = (tmp_path / "README.md").read_text()
    accuracies = [f"{100 * line['top1']['average']:.1f}" for line in lines if line["row"] == "distilled"]
    assert f"| teacher-convnet | 97.5 | 25.0 | not mixed | 16 | `distilled` {accuracies[1]} |" in text
    own = next(line for line in text.splitlines() if line.startswith("| teacher-convnet | "))
    assert own.startswith(f"| teacher-convnet | {100 * lines[1]['top1']['only']:.1f} | ")
    assert own.endswith(f" | `distilled` {accuracies[0]} |")
    lines[-1] |= {"seed": 0, "row": "distilled-by-timm", "teacher_top1": lines[1]["top1"]["only"]}
    lines[-1]["teacher_fit"] = {
        name: lines[2]["teacher_fit"][name] for name in ("teacher_top1_on_views", "teacher_views")
    }
    write_results(folder, lines)
    main(["digits", "--show", "-o", str(tmp_path)])
    views = next(
        line for line in (tmp_path / "README.md").read_text().splitlines() if line.startswith("| teacher-conv")
    )
    assert f" | {lines[2]['teacher_fit']['teacher_views']} | " in views  # the same views, counted once
    first = np.load(folder / "answers" / "distilled-seed0.npz")
    teacher = np.load(folder / "answers" / "teacher-convnet.npz")
    row = next(line for line in text.splitlines() if line.startswith("| class head | "))
    assert row.split(" | ")[2] == f"{np.mean(first['cls'] != teacher['only']):.3f}"
