"""`deit-hf report` on small models: the page, its numbers, and what is refused."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import datasets
import pytest
from datasets import ClassLabel
from support.models import NAMES, labels, make_model, save
from transformers import PreTrainedModel

from deit_hf import DeiTConfig, DistillationArguments
from deit_hf.commands.report import main
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.jobs.report_sources import display_names, find_sources, run_facts
from deit_hf.training.saved_model import evaluate

BAD_NAME = 'bee <script>alert("1")</script> & co'


@pytest.fixture
def data(toy_rows: datasets.Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The first twenty toy rows, in the folder `secret/toys`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "secret" / "toys"
    folder.mkdir(parents=True)
    rows = toy_rows.select(range(20)).cast_column("label", ClassLabel(names=named(NAMES)))
    rows.to_parquet(folder / "test-00000-of-00001.parquet")
    return str(folder)


def named(names: list[str]) -> list[str]:
    """The names, with one that has to be escaped."""
    return [BAD_NAME if name == "bee" else name for name in names]


def save_named(model: PreTrainedModel, path: Path, names: list[str] = NAMES) -> str:
    for name, value in labels(named(names)).items():
        setattr(model.config, name, value)
    return save(model, path)


def report(*arguments: str) -> tuple[dict, str]:
    main([*arguments, "--num_workers", "0", "--batch_size", "8", "--overwrite", "true"])
    return json.loads(Path("report.json").read_text(encoding="utf-8")), Path("report.html").read_text(encoding="utf-8")


class Page(HTMLParser):
    """Checks that tags close in order, and collects what the page needs and shows."""

    def __init__(self, text: str):
        super().__init__()
        self.open, self.links, self.images, self.ids = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list):
        found = dict(attributes)
        self.links += [found[name] for name in ("src", "href", "xlink:href") if name in found]
        self.images += [found] if tag == "img" else []
        self.ids += [found["id"]] if "id" in found and tag in ("h2", "section") else []
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list):
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag: str):
        assert self.open.pop() == tag


def test_page_of_two_models_and_a_teacher(tmp_path: Path, data: str, tiny_config: DeiTConfig, capsys):
    first = save_named(make_model("distilled", tiny_config), tmp_path / "secret" / "student")
    order = ["cat", "bee", "ant", "eel", "dog"]
    second = save_named(make_model("resnet", tiny_config), tmp_path / "secret" / "convnet", order)
    teacher = save_named(make_model("resnet", tiny_config), tmp_path / "secret" / "taught")
    facts, text = report(first, second, "--data", data, "--teacher", teacher)

    assert [model["name"] for model in facts["models"]] == ["student", "convnet", "taught"]
    for model, source in zip(facts["models"][:2], (first, second), strict=True):  # as deit-hf evaluate measures
        args = DistillationArguments(str(tmp_path / "out"), report_to="none", per_device_eval_batch_size=8)
        metrics = evaluate(source, DataArguments(dataset_name=data), args)
        for head in model["heads"]:
            ending = "" if head["head"] == "only" else f"_{head['head']}"
            for name in ("top1", "top5", "balanced_accuracy", "macro_f1"):
                assert head[name] == pytest.approx(metrics[f"eval_{name}{ending}"]), (model["name"], name)
    assert sum(each["images"] for each in facts["models"][1]["classes"]) == 20
    assert facts["data"] == {"name": "toys", "part": "test", "images": 20, "classes": named(NAMES)}
    assert all(model["multiply_adds"] > 0 and model["milliseconds"] > 0 for model in facts["models"])

    page = Page(text)
    assert "<script" not in text
    assert all(link.startswith(("data:", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#") and link[1:] in page.ids} >= {"accuracy", "heads"}
    assert len(page.ids) == len(set(page.ids))
    assert len(page.images) > 0
    assert all(image["alt"] and len(image["src"]) < 20_000 for image in page.images)
    assert "bee &lt;script&gt;" in text
    for hidden in ("secret", str(tmp_path)):
        assert hidden not in text + json.dumps(facts)
    for part in ('name="viewport"', "prefers-color-scheme: dark"):
        assert part in text
    assert "wrote report.html" in capsys.readouterr().out


def test_numbers_alone_need_no_figures_and_a_page_without_images_has_none(
    tmp_path: Path, data: str, tiny_config: DeiTConfig
):
    model = save_named(make_model("plain", tiny_config), tmp_path / "model")
    main([model, "--data", data, "--output", "numbers.json", "--num_workers", "0"])
    assert [path.name for path in tmp_path.iterdir() if path.suffix in (".html", ".json")] == ["numbers.json"]
    _, text = report(model, "--data", data, "--thumbnails", "0")
    assert "<img" not in text


def test_results_are_printed_even_if_the_files_cannot_be_written(
    tmp_path: Path, data: str, tiny_config: DeiTConfig, capsys, monkeypatch
):
    def refuse(directory: Path):
        raise OSError(28, "No space left on device", str(directory))

    model = save_named(make_model("plain", tiny_config), tmp_path / "model")
    monkeypatch.setattr("deit_hf.atomic_files.written_aside", refuse)
    with pytest.raises(SystemExit):
        main([model, "--data", data, "--output", "numbers.json", "--num_workers", "0"])
    printed = capsys.readouterr()
    assert "No space left" in printed.err
    assert "top-1" in printed.out


def test_wrong_arguments_are_one_line(tmp_path: Path, data: str, tiny_config: DeiTConfig, capsys, monkeypatch):
    model = save_named(make_model("plain", tiny_config), tmp_path / "model")
    other = save_named(make_model("plain", tiny_config), tmp_path / "other", ["ape", "bat", "cow", "doe", "elk"])
    (tmp_path / "old.html").touch()
    for arguments, message in (
        ([other, "--data", data], "classes of the evaluation data"),
        ([model, other, "--data", data], "classes of the evaluation data"),
        ([model, "--data", data, "--output", "old.html"], "`old.html` already exists"),
        ([model, "--data", data, "--output", "a.pdf"], "must end in .html or .json"),
        ([model, "--data", data, "--output", "no/a.html"], "the folder `no` does not exist"),
        ([model, "--data", data, "--dataset_name", data], "are both given"),
        ([model, "--data", data, "--teacher", other], "`taught`|not match|is a class of|classes"),
        ([model, "--data", data, "--thumbnails", "101"], "must be in [0, 100]"),
        (["--data", data], "MODEL... is missing"),
        ([model], "no data is named"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main([*arguments, "--num_workers", "0"])
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert stopped.value.code == 2
        assert any(part in error for part in message.split("|")), (arguments, error)
    assert not Path("report.html").exists()
    monkeypatch.setitem(__import__("sys").modules, "matplotlib", None)
    with pytest.raises(SystemExit):
        main([model, "--data", data])
    assert 'pip install "deit_hf[viz]"' in capsys.readouterr().err


def test_images_with_several_labels_are_refused(tmp_path: Path, data: str, tiny_config: DeiTConfig, capsys):
    model = save_named(make_model("plain", tiny_config), tmp_path / "model")
    (tmp_path / "real.json").write_text(json.dumps([[0, 1]] * 20))
    with pytest.raises(SystemExit):
        main([model, "--data", data, "--label_file", "real.json", "--num_workers", "0"])
    assert "row 0 has the labels [0, 1], but a report needs one label" in capsys.readouterr().err


TIMES = {  # "plain" was resumed
    "student": {"train_runtime": 75.0, "train_runtime_since_step": 0, "train_data_wait": 0.25},
    "plain": {"train_runtime": 14.0, "train_runtime_since_step": 2300},
}


def write_run(folder: Path, model: PreTrainedModel, teacher: str | None) -> None:
    """The files of a finished run that a report reads."""
    save_named(model, folder)
    (folder / "run_identity.json").write_text("{}")
    head = "# Repeat with: x\n# Effective settings of the run:\n"
    recipe = f"{head}# teacher           /home/me/teacher, frozen\n# steps  7\n"
    named_teacher = "null" if teacher is None else teacher
    (folder / "recipe.yaml").write_text(f"{recipe}teacher_model_name_or_path: {named_teacher}\n")
    steps = () if teacher is None else (1, 2, 3)
    log = [{"step": step, "loss": 2.0 / step, "eval_top1": 0.1 * step} for step in steps]
    (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
    (folder / "train_results.json").write_text(json.dumps({"epoch": 3.0, **TIMES.get(folder.name, TIMES["student"])}))


def test_job_stands_for_student_plain_and_teacher(tmp_path: Path, data: str, tiny_config: DeiTConfig):
    job = tmp_path / "runs" / "toys"
    write_run(job / "student", make_model("distilled", tiny_config), "elsewhere/toys/teacher")
    write_run(job / "plain", make_model("one head", tiny_config), None)
    save_named(make_model("resnet", tiny_config), job / "teacher")
    (job / "job.json").write_text("{}")
    models = [str(job / "student"), str(job / "plain")]
    expected = models, {str(job / "teacher"): models[:1]}, False
    assert tuple(find_sources([str(job)], None)) == expected
    assert tuple(find_sources([str(job / "student")], None)) == expected
    assert find_sources([str(job / "student"), str(job / "plain")], "x") == (models, {"x": []}, True)
    facts = run_facts(str(job / "student"))
    assert facts["settings"] == {"teacher": "teacher, frozen", "steps": "7"}
    assert facts["results"] == {"epoch": 3.0, **TIMES["student"]}

    facts, text = report(str(job), "--data", data)
    assert [(model["name"], model["is_teacher"]) for model in facts["models"]] == [
        *(("student", False), ("plain", False), ("teacher", True))
    ]
    assert [*facts["disagreement"]][:3] == ["labels", "teacher", "student, both heads"]
    assert [model["taught"] for model in facts["models"]] == [[], [], ["student"]]
    shown = ("3 epochs in 1 min 15 s.", "3 epochs; 14 s since the resume at step 2300.", "learning rate")
    for part in (*shown, ">teacher (teacher of student)<"):
        assert part in text
    assert "/home/me" not in text + json.dumps(facts)
    shutil.rmtree(job / "student")
    with pytest.raises(FileNotFoundError, match="without a finished student"):
        find_sources([str(job)], None)


def test_folder_with_the_name_of_a_teacher_of_the_hub_is_not_taken_for_it(tmp_path: Path, tiny_config: DeiTConfig):
    """Fails if only the last part is compared: a model that was fine-tuned from the teacher is not the teacher."""
    runs = tmp_path / "runs"
    save_named(make_model("resnet", tiny_config), runs / "resnet-50")
    student = make_model("distilled", tiny_config)
    for named, found in (
        ("microsoft/resnet-50", False),
        ("runs/resnet-50", True),
        ("resnet-50", True),
        ("../resnet-50", True),
        ("/before/it/was/moved/resnet-50", True),
        ("timm:resnet50", False),
    ):
        write_run(runs / "mine", student, named)
        expected = {str(runs / "resnet-50"): [str(runs / "mine")]} if found else {}
        assert find_sources([str(runs / "mine")], None).teachers == expected, named


def test_each_job_has_its_own_teacher(tmp_path: Path, tiny_config: DeiTConfig):
    """Fails if the first teacher stands for those of all models."""
    jobs = [tmp_path / name for name in ("far", "first", "second")]
    student = make_model("distilled", tiny_config)
    for job in jobs:
        write_run(job / "student", student, "user/model" if job.name == "far" else f"{job}/teacher")
        (job / "job.json").write_text("{}")
    for job in jobs[1:]:
        save_named(make_model("resnet", tiny_config), job / "teacher")
    write_run(tmp_path / "more", student, str(jobs[1] / "teacher"))
    models = [*(str(job / "student") for job in jobs), str(tmp_path / "more")]
    assert find_sources([*map(str, jobs), models[-1]], None) == (
        models,
        {str(jobs[1] / "teacher"): [models[1], models[3]], str(jobs[2] / "teacher"): [models[2]]},
        False,
    )


def test_names_have_as_many_folders_as_tell_models_apart(tmp_path: Path):
    """Fails if only one folder is added: students of two jobs, and their averages, have the same one."""
    paths = [tmp_path / name for name in ("a/toys/student", "b/toys/student", "b/toys/plain", "c/student", "toys")]
    for path in paths:
        path.mkdir(parents=True)
    names = ["a/toys/student", "b/toys/student", "plain", "c/student", "toys"]
    assert display_names([str(path) for path in paths]) == names
    assert display_names([str(paths[2]), str(paths[2])]) == ["plain", "plain (2)"]


def test_names_are_unique_and_hold_no_folders(tmp_path: Path):
    for name in ("a/best", "b/best", "b/last"):
        (tmp_path / name).mkdir(parents=True)
    paths = [str(tmp_path / name) for name in ("a/best", "b/best", "b/last")]
    assert display_names([*paths, "user/model", "timm:resnet@/home/me/w.pth"]) == [
        *("a/best", "b/best", "last", "user/model", "resnet@w.pth")
    ]
    assert re.fullmatch(r"last", display_names([f"{paths[2]}/"])[0])
