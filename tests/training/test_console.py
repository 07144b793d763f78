"""What the commands print: lines of this package, and of other libraries only what a user can act on."""

import logging
import re
import warnings
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
from transformers.utils import logging as transformers_logging

from deit_hf.commands.train import main
from deit_hf.training.console import SILENCED, set_up_logging
from deit_hf.training.trainer import DistillationTrainer

LINES = (
    r"The data:",
    r"(train|evaluation \(val\)) +\d+ images in 2 classes .*",
    r"The effective recipe:",
    r"(student|objective|teacher|global batch|images|steps|learning rate|warm-up|optimizer|views) +\S.*",
    r"(mixing|averaged weights|precision|evaluation|seed) +\S.*",
    r"epoch \d/2  loss \d\.\d\d  top-1 \d+\.\d  lr \d\.\de-\d  data wait \d+ %  \d+(\.\d)? s(  \* best)?",
    r"",
    r"Finished: 4 steps; [\d.]+ s, [\d.e+]+ images/s; waited for data \d+ % of the time",
    r" +top-1 +top-5 +balanced accuracy +macro-F1 +loss",
    r"evaluation( +\d+\.\d\d %){4}  \d\.\d{4}",
    r"The model is in .*/run",
)
INPUT = r"input: .*the device waits for data \d+ % of the time.*"  # depends on the speed of the machine


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two classes of images that make Pillow warn whenever one is decoded."""
    generator = np.random.default_rng(0)
    for part in ("train", "val"):
        for name in ("cat", "dog"):
            (tmp_path / "photos" / part / name).mkdir(parents=True)
            for i in range(4):
                image = PIL.Image.fromarray(generator.integers(0, 255, (32, 32, 3), dtype=np.uint8)).quantize(16)
                image.save(tmp_path / "photos" / part / name / f"{i}.png", transparency=bytes(range(16)))
    return tmp_path / "photos"


def run(photos: Path, monkeypatch: pytest.MonkeyPatch, *more: str) -> None:
    options = "--variant deit_tiny_patch16_224 --image_size 32 --num_train_epochs 2 --per_device_train_batch_size 4 "
    options += "--warmup_epochs 0 --learning_rate 1e-3 --eval_strategy epoch --logging_strategy epoch "
    options += "--save_strategy no --report_to none --repeated_augmentation 1 --dataloader_num_workers 1"
    tiny = '{"patch_size": 8, "hidden_size": 24, "intermediate_size": 24, "num_hidden_layers": 1}'
    command = [*options.split(), "--dataset_name", str(photos), "--output_dir", str(photos.parent / "run")]
    monkeypatch.setattr("sys.argv", ["train.py", *command, "--config_overrides", tiny, *more])
    main()


def test_normal_run_prints_only_lines_of_ours(photos: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    run(photos, monkeypatch)
    printed = "".join(capfd.readouterr())
    assert not set("{}\r") & set(printed)
    lines = printed.splitlines()
    assert [line for line in lines if not any(re.fullmatch(known, line) for known in (*LINES, INPUT))] == []
    assert [known for known in LINES if not any(re.fullmatch(known, line) for line in lines)] == []
    assert len(set(lines)) == len([line for line in lines if line]) + 1  # no line twice, but an empty one


def test_verbose_run_silences_nothing(photos: Path, monkeypatch: pytest.MonkeyPatch, capfd):
    run(photos, monkeypatch, "--verbose", "true", "--dataloader_num_workers", "0", "--disable_tqdm", "true")
    assert "{'grad_norm'" in capfd.readouterr().out
    own = logging.getLogger("transformers")
    assert (own.level, own.propagate) == (logging.INFO, False)  # its own handler prints, not ours
    assert not warnings.filters


def test_processes_other_than_the_first_print_only_errors(monkeypatch: pytest.MonkeyPatch, capsys):
    for rank, expected in (
        ("0", ["ours", "theirs", "UserWarning of tests/x.py: watch out", "broken"]),
        ("1", ["broken"]),
    ):
        monkeypatch.setenv("RANK", rank)
        set_up_logging(verbose=False)
        capsys.readouterr()
        with warnings.catch_warnings():
            warnings.simplefilter("always" if rank == "0" else "ignore")
            logging.getLogger("deit_hf.data.check").info("ours")
            transformers_logging.get_logger("transformers.trainer").warning("theirs")
            warnings.warn_explicit("watch\nout", UserWarning, "tests/x.py", 3)
            logging.getLogger("deit_hf.training.run").error("broken")
        assert capsys.readouterr().err.splitlines() == expected


def test_only_the_named_messages_are_silenced(capsys: pytest.CaptureFixture):
    set_up_logging(verbose=False)
    for source, start, reason in SILENCED:
        assert reason
        if isinstance(source, str):
            logging.getLogger(source).warning("%s and so on", start)
            logging.getLogger(source).warning("another message")
            assert capsys.readouterr().err == "another message\n"
        else:
            assert not set(",:") & set(start)  # it is also an entry of PYTHONWARNINGS


@pytest.mark.parametrize("best", [[], ["--load_best_model_at_end", "true", "--metric_for_best_model", "loss"]])
def test_same_weights_are_evaluated_once_at_the_end(photos: Path, best, monkeypatch: pytest.MonkeyPatch):
    steps = []
    own = DistillationTrainer.evaluation_loop

    def counted(self, *args, **kwargs):
        steps.append(self.state.global_step)
        return own(self, *args, **kwargs)

    monkeypatch.setattr(DistillationTrainer, "evaluation_loop", counted)
    # all losses are equal, so that the best checkpoint is the first one
    chosen = [*best, "--save_strategy", "epoch", "--learning_rate", "0"] if best else []
    run(photos, monkeypatch, "--dataloader_num_workers", "0", *chosen)
    assert steps == ([2, 4, 4] if best else [2, 4])
