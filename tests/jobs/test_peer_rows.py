"""A study with rows of peers: trained, measured and shown like the others; wrong options are refused before a run."""

from pathlib import Path
from typing import Any

import pytest

from deit_hf.jobs import study as study_module
from deit_hf.jobs.arguments import ReproduceArguments
from deit_hf.jobs.reproduce import reproduce
from deit_hf.jobs.study import find_table
from deit_hf.jobs.study_report import table_of
from deit_hf.jobs.study_results import read_results

STUDY = """# A tiny study of peers
data: {dataset_name: digits, max_eval_samples: 30}
validation: 0.5
tables:
  tiny-peers: [ours, timm, plain]
protocols:
  cpu:
    all:
      image_size: 16
      max_train_samples: 40
      random_augment: none
      color_jitter: 0
      random_erase_prob: 0
      repeated_augmentation: 1
      per_device_train_batch_size: 20
      per_device_eval_batch_size: 200
      num_train_epochs: 1
      warmup_epochs: 0
      save_strategy: epoch
      config_overrides:
        {patch_size: 8, hidden_size: 24, num_attention_heads: 3, intermediate_size: 40, num_hidden_layers: 1}
    teachers:
      small: {variant: deit_tiny_patch16_224}
rows:
  ours: &row {variant: deit_tiny_distilled_patch16_224, teacher: small, distillation_type: hard}
  timm: {<<: *row, against: ours, peer: timm}
  plain: {<<: *row, against: ours, peer: plain}
"""


@pytest.fixture(autouse=True)
def _tiny_study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tables").mkdir()
    (tmp_path / "tables" / "tiny.yaml").write_text(STUDY)
    monkeypatch.setattr(study_module, "STUDIES", tmp_path / "tables")


def run(folder: Path, **options: Any) -> Path:
    quiet = {"report_to": ["none"], "disable_tqdm": True, **options}
    return reproduce(ReproduceArguments("tiny-peers", seeds=[3]), quiet, folder)


def test_rows_of_peers_are_trained_measured_and_shown_with_their_time(tmp_path: Path):
    folder = run(tmp_path / "out")
    lines = {line["run"]: line for line in read_results(folder)}
    assert [*lines] == ["teacher-small", "ours-seed3", "timm-seed3", "plain-seed3"]
    assert [line["peer"] for line in lines.values()] == [None, None, "timm", "plain"]
    ours, timm = lines["ours-seed3"], lines["timm-seed3"]
    for name in ("num_images", "num_train_images", "data", "options", "teacher"):
        assert ours[name] == timm[name]
    assert ours["num_images"] == 30
    assert {*timm["top1"]} == {"cls", "distillation", "average"}
    head, _, *rows = table_of("tiny-peers", folder).splitlines()[2:7]
    assert head.endswith("| p < 0.05 | seconds |")
    assert [row.split(" | ")[0] for row in rows] == ["| ours", "| timm", "| plain"]
    assert [row.split(" | ")[-1].rstrip(" |") for row in rows] == [
        f"{lines[name]['seconds']:,.0f}" for name in ("ours-seed3", "timm-seed3", "plain-seed3")
    ]


def test_an_option_that_a_peer_would_ignore_is_refused_before_the_first_run(tmp_path: Path):
    averaged = STUDY.replace("save_strategy: epoch", "ema_decay: 0.9")
    (tmp_path / "tables" / "tiny.yaml").write_text(averaged)
    with pytest.raises(ValueError, match="`ema_decay` is 0.9, but the peer timm trains with 0.0"):
        run(tmp_path / "out")
    assert not read_results(tmp_path / "out" / "tiny-cpu")


def test_the_shipped_peers_do_the_work_of_their_first_row(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.undo()
    study, rows = find_table("peers")
    for protocol in study.protocols:
        runs = [run for run in study.runs(rows, [0], protocol, {}).values() if run.row in rows]
        assert [run.peer for run in runs] == [None, "timm", "plain"]
        assert all(run.options == runs[0].options for run in runs)
        assert all(run.teacher == runs[0].teacher for run in runs)
