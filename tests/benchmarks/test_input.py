"""The benchmark runs and compares equal work; no test checks a time."""

import re
import runpy
import sys
from pathlib import Path

import datasets
import pytest
import torch

from deit_hf.benchmarks import input as input_module
from deit_hf.benchmarks.input import InputSpeed, generate_jpegs, measure_input
from deit_hf.commands import benchmark
from deit_hf.data.dataset import seeded
from deit_hf.data.sampling import ViewKey

ROOT = Path(__file__).parents[2]


def test_script_prints_both_speeds_and_their_ratio(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture):
    options = ["--num_images", "3", "--num_rounds", "2", "--image_size", "32"]
    monkeypatch.setattr(sys, "argv", ["benchmark.py", "input", *options])
    monkeypatch.setattr(sys, "path", list(sys.path))
    runpy.run_path(str(ROOT / "scripts" / "benchmark.py"), run_name="__main__")
    printed = capsys.readouterr().out
    numbers = re.fullmatch(
        r"deit_hf +([\d.]+) images per second and core\n"
        r" +([\d.]+) with normalisation and erasing on the same core\n"
        r"timm +([\d.]+) images per second and core, normalisation and erasing included\n"
        r"ratio +([\d.]+) \(median of 2 rounds; ([\d.]+) to ([\d.]+)\)\n"
        r" +([\d.]+) \(median of 2 rounds; ([\d.]+) to ([\d.]+)\) with normalisation and erasing\n"
        r"crops +differ by at most (\d+) of 255 levels, ([\d.]+) on average \(3 images, before augmentation\)\n",
        printed,
    )
    assert numbers is not None, printed
    ours, finished, _, *ratios, largest, mean = (float(number) for number in numbers.groups())
    assert finished < ours
    for ratio, lowest, highest in (ratios[:3], ratios[3:]):
        assert 0 < lowest <= ratio <= highest
    assert 0 < mean < largest < 25


def test_crops_of_images_that_are_not_jpegs_are_equal(toy_rows: datasets.Dataset):
    speed = measure_input(toy_rows, image_size=32, num_rounds=1)
    assert (speed.largest_difference, speed.mean_difference, speed.num_images) == (0, 0.0, 40)
    assert len(speed.ours) == len(speed.finished) == len(speed.timm) == 1


def test_both_sides_make_the_same_views(toy_rows: datasets.Dataset):
    # different recipes or random numbers would compare unequal work
    rounds = input_module._Rounds(toy_rows, 32, 1, "image")
    for index, file in enumerate(rounds.files):
        view = rounds.views[ViewKey(0, 0, index, 0)]
        with seeded(*rounds.views.entropy(ViewKey(0, 0, index, 0))):
            theirs = rounds.timm_view(input_module._loaded_like_timm(file))
        assert torch.equal(rounds.finish(view["pixels"][None], [view["erasure"]])[0], theirs)


def test_files_named_by_their_path_are_read(tmp_path: Path):
    path = tmp_path / "one.jpg"
    path.write_bytes(generate_jpegs(1).cast_column("image", datasets.Image(decode=False))[0]["image"]["bytes"])
    rows = datasets.Dataset.from_dict({"image": [str(path)] * 2}).cast_column("image", datasets.Image())
    assert measure_input(rows, image_size=32, num_rounds=1).num_images == 2


def test_ratio_is_ours_over_timms():
    speed = InputSpeed([100.0, 300.0, 200.0], [50.0, 200.0, 100.0], [100.0, 200.0, 400.0], 2, 0.04, num_images=3)
    assert speed.ratios == [1.0, 1.5, 0.5]
    assert speed.finished_ratios == [0.5, 1.0, 0.25]
    assert "ratio       1.000 (median of 3 rounds; 0.500 to 1.500)" in str(speed)


def test_no_round_is_refused():
    with pytest.raises(ValueError, match="`num_rounds` is 0, but must be 1 or more"):
        measure_input(generate_jpegs(1), image_size=32, num_rounds=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--train_split", "a"], "`train_split` is for a dataset; name one with `--dataset_name`"),
        (["--label_column_name", "a"], "`label_column_name` is for a dataset"),
        (["--num_images", "0"], "`num_images` is 0, but must be 1 or more"),
        (["--num_images", "1", "--image_size", "0"], "`image_size` is 0, but must be 2 pixels or more"),
    ],
)
def test_options_without_effect_and_out_of_range_are_refused(arguments: list[str], message: str, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["benchmark", "input", *arguments])
    with pytest.raises(SystemExit) as left:
        benchmark.main()
    assert left.value.code == 2
    assert capsys.readouterr().err.startswith(f"error: {message}")
