"""All packages train on the same files; the table has all of them. No test checks a time."""

import json
import statistics
from pathlib import Path

import PIL.Image
import pytest

from deit_hf.benchmarks.contenders import ONLINE, PLAIN, STORED
from deit_hf.benchmarks.training import measure_trainings
from deit_hf.commands import benchmark
from deit_hf.data.sources.arguments import DataArguments

SIZES = {"num_images": 4, "batch_size": 2, "image_size": 16, "num_workers": 0, "num_rounds": 1}
TEACHER = "timm:test_resnet"  # timm's smallest
ROWS = [(PLAIN, "deit_hf"), (PLAIN, "timm"), (PLAIN, "transformers"), (ONLINE, "deit_hf"), (ONLINE, "timm")]


def of_command(sizes: dict) -> list[str]:
    return [part for name, value in sizes.items() for part in (f"--{name}", str(value))]


@pytest.mark.slow
def test_table_and_file_have_each_package_with_and_without_teacher(tmp_path: Path, capsys: pytest.CaptureFixture):
    path = tmp_path / "result.json"
    teacher = ["--teacher", TEACHER, "--random_teacher"]
    benchmark.main(["training", *of_command(SIZES), *teacher, "--output", str(path)])
    printed = capsys.readouterr()
    result = json.loads(path.read_text())
    rows = {(row["setting"], row["package"]): row for row in result["rows"]}
    assert [*rows] == [*ROWS, (STORED, "deit_hf")]
    for (setting, package), row in rows.items():
        (speed,) = row["rounds"]
        assert row["images_per_second"] == speed
        assert 0 < row["data_wait"] < 1
        if package != "deit_hf":
            assert row["ratio"] == statistics.median([rows[setting, "deit_hf"]["rounds"][0] / speed])
        if setting != PLAIN:
            assert row["of_no_teacher"] == speed / rows[PLAIN, package]["rounds"][0]
        assert f"| {setting} | {package} | {speed:.1f} |" in printed.out
    assert printed.out.startswith("|")  # a training of its own would print its losses
    assert "The effective recipe" not in printed.err
    assert f"teacher: {TEACHER}, with random weights: only its cost counts" in printed.out


def test_folder_of_a_user_without_teacher(tmp_path: Path):
    for index in range(6):
        folder = tmp_path / ("cat", "dog")[index % 2]
        folder.mkdir(exist_ok=True)
        PIL.Image.new("RGB", (20, 30), (index * 40, 9, 9)).save(folder / f"{index}.jpg")
    result = measure_trainings(DataArguments(train_dir=str(tmp_path), max_train_samples=3), **SIZES)
    assert [(row["setting"], row["package"]) for row in result.rows] == ROWS[:3]
    assert result.settings["num_images"] == 3
    assert any("name one with `--teacher SOURCE`" in note for note in result.notes)
    assert all("of_no_teacher" not in row for row in result.rows)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--variants", "a"], "`variants` has no effect on `benchmark training`, only on model; leave it out"),
        (["--random_teacher"], "`random_teacher` needs `teacher` timm:NAME without a file, but it is None"),
        (["--random_teacher", "--teacher", "google/vit"], "`random_teacher` needs `teacher` timm:NAME without a file"),
        (["--random_teacher", "--teacher", "timm:no_such"], "timm 1."),
        (["--teacher", "timm:resnet18@/no/file.pth"], "no weights at `/no/file.pth`"),
        (["--train_split", "a"], "`train_split` is for a dataset; name one with `--dataset_name`"),
        (["--train_dir", "a", "--dataset_name", "b"], "`dataset_name` is b, `train_dir` a"),
        (["--train_dir", "/no/such"], "no folder `/no/such`; it must contain one sub-folder of"),
        (["--batch_size", "3"], "`batch_size` is 3, but must be an even number"),
        (["--num_images", "1"], "`num_images` is 1, but must be 2 or more, as `batch_size`"),
        (["--num_workers", "-1"], "`num_workers` is -1, but must be 0 or more"),
        (["--num_epochs", "0"], "`num_epochs` is 0, but must be 1 or more"),
    ],
)
def test_wrong_option_is_one_line(arguments: list[str], message: str, capsys: pytest.CaptureFixture):
    with pytest.raises(SystemExit) as left:
        benchmark.main(["training", *of_command(SIZES), *arguments])
    assert left.value.code == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {message}")
