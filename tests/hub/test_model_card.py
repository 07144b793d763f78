"""Model cards of runs and of the published variants, and the checks before a push; only one test needs a server."""

import ast
import json
import logging
import os
import re
import runpy
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import huggingface_hub
import pytest
import torch
import yaml
from huggingface_hub import ModelCard
from support.local_hub import LocalHub, metadata_errors
from support.models import facts_of_run
from support.patience import PATIENCE

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher
from deit_hf.hub.model_card import render_model_card, write_model_card
from deit_hf.hub.model_facts import ModelFacts, ReportedAccuracy
from deit_hf.hub.push import push_directory
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.model.variants import VARIANTS

ROOT = Path(__file__).parents[2]
METRICS = {
    "eval_loss": 1.5,
    "eval_top1_average": 0.74476,
    "eval_top5_average": 0.9192,
    "eval_top1_cls": 0.739,
    "eval_top5_cls": 0.915,
    "eval_top1_distillation": 0.7461,
    "eval_top5_distillation": 0.92,
}
RUN = ModelFacts(
    model_name="alice/tiny",
    image_size=(224, 192),
    num_labels=1000,
    two_heads=True,
    variant="deit_tiny_distilled_patch16_224",
    architecture={"layers": 12},
    num_parameters=5_910_800,
    base_model="facebook/deit-tiny-patch16-224",
    teacher="timm/regnety_160.deit_in1k",
    dataset="ILSVRC/imagenet-1k",
    evaluated_on="ILSVRC/imagenet-1k (validation)",
    metrics=METRICS,
    crop="short side resized to 256 pixels (bicubic), centre crop of 224x192",
    environment="seed 42, one CPU",
    recipe={"distillation_type": "hard", "mixup_alpha": 0.8, "train_dir": "/home/alice/secret/photos"},
    curves="training_curves.png",
)


def section(card: str, title: str) -> str:
    """Returns the text below a heading, up to the next heading of the same or a higher level."""
    level = title.partition(" ")[0]
    return re.split(rf"\n#{{1,{len(level)}}} ", card.partition(f"\n{title}\n")[2])[0]


def snippet(card: str) -> str:
    found = re.search(r"```python\n(.*?)```", card, re.DOTALL)
    assert found is not None
    return found[1]


def test_effective_settings_have_no_part_of_a_path_with_spaces_and_no_relative_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fails if only the part of a path before its first space is removed: the directory then cannot be found again."""
    monkeypatch.chdir(tmp_path)
    Path("jane/answers").mkdir(parents=True)
    for cache in ("/home/Jane Doe/answers", "jane/answers"):
        line = f"regnet at 224x224 pixels, answers stored in {cache}; top-1 not measured"
        facts = replace(RUN, recipe={"teacher_cache": cache, "seed": 1}, effective_recipe={"teacher": line})
        card = render_model_card(facts)
        assert "answers stored in answers; top-1" in card
        assert not re.search("jane|doe", card, re.IGNORECASE)


def test_card_tells_both_heads_crop_fusion_recipe_and_curves() -> None:
    card = render_model_card(RUN)
    rows = re.findall(r"^\| ([\w ()']+) \| ([\d.]+) \| ([\d.]+) \|$", section(card, "### Measured"), re.MULTILINE)
    assert rows == [
        ("mean of both heads (model output)", "74.48", "91.92"),
        ("class head", "73.90", "91.50"),
        ("distillation head", "74.61", "92.00"),
    ]
    assert "- Crop: short side resized to 256 pixels (bicubic), centre crop of 224x192.\n" in card
    assert "- Fusion of the heads: mean of both heads' logits.\n" in card
    assert "- Measured with: seed 42, one CPU.\n" in card
    assert "![Training curves](training_curves.png)" in card
    assert 'model="alice/tiny")\nimage = Image.new("RGB", (192, 224)' in snippet(card)
    assert "2012.12877" in section(card, "## Citation")


def counts_of(*correct: int) -> list[dict]:
    return [
        {"index": i, "name": f"kind | {i}", "images": 40, "correct": n, "accuracy": n / 40}
        for i, n in enumerate(correct)
    ]


def test_classes_are_ordered_by_accuracy_and_have_intervals() -> None:
    parts = {"evaluation": counts_of(30, 10, 40), "test": counts_of(0, 20, 40)[:2]}
    card = render_model_card(replace(RUN, by_class=parts, confusion="confusion_matrix.png"))
    table = section(card, "### Measured").partition("Accuracy of each class")[2]
    assert re.findall(r"^\|.*", table, re.MULTILINE) == [
        "| class | evaluation | test |",
        "|---|---|---|",
        r"| kind \| 1 | 25.0 (14–40), 10 of 40 | 50.0 (35–65), 20 of 40 |",
        r"| kind \| 0 | 75.0 (60–86), 30 of 40 | 0.0 (0–9), 0 of 40 |",
        r"| kind \| 2 | 100.0 (91–100), 40 of 40 | – |",
    ]
    assert "![Confusion matrix](confusion_matrix.png)" in table
    assert "Accuracy of each class" not in render_model_card(RUN)
    assert "Confusion matrix" not in render_model_card(RUN)


def test_of_many_classes_the_worst_and_the_best_are_shown() -> None:
    card = render_model_card(replace(RUN, by_class={"evaluation": counts_of(*range(40), *range(20))}))
    table = section(card, "### Measured").partition("Accuracy of each class")[2]
    accuracies = re.findall(r"(\d+) of 40 \|$", table, re.MULTILINE)
    assert accuracies == [*"0011223344", *(str(each) for each in range(30, 40))]
    assert "40 classes between them are not shown." in table


def test_card_of_another_fusion_does_not_call_it_the_models_answer() -> None:
    card = render_model_card(replace(RUN, fusion="sum of both heads' softmaxes"))
    assert "| sum of both heads' softmaxes | 74.48 | 91.92 |" in section(card, "### Measured")
    assert "- Fusion of the heads: sum of both heads' softmaxes.\n" in card
    assert "model output" not in card
    names = [result.metric_name for result in ModelCard(card).data.eval_results]
    assert names[:2] == ["top-1, sum of both heads' softmaxes", "top-5, sum of both heads' softmaxes"]


def test_card_shows_the_recipe_in_force_but_no_folders_of_this_machine() -> None:
    card = render_model_card(RUN)
    recipe = re.search(r"```yaml\n(.*?)```", card, re.DOTALL)
    assert recipe is not None
    assert yaml.safe_load(recipe[1]) == {**RUN.recipe, "train_dir": "photos"}
    assert "/home/alice" not in card


def test_metadata_holds_each_measured_value_unverified() -> None:
    metadata = ModelCard(render_model_card(RUN)).data
    values = {result.metric_name: result.metric_value for result in metadata.eval_results}
    assert values["top-1, mean of both heads (model output)"] == METRICS["eval_top1_average"]
    assert values["top-5, distillation head"] == METRICS["eval_top5_distillation"]
    assert len(values) == 6
    assert {result.verified for result in metadata.eval_results} == {False}
    found = (metadata.base_model, metadata.to_dict()["teacher"], metadata.datasets)
    assert found == (RUN.base_model, RUN.teacher, [RUN.dataset])
    assert (metadata.library_name, metadata.pipeline_tag) == ("transformers", "image-classification")


def test_metadata_never_mixes_measured_and_reported_numbers() -> None:
    row = ReportedAccuracy(
        "class head", "ImageNet-1k validation", "72.202", "its README", "https://example.org", "91.1"
    )
    both = replace(RUN, reported=[row])
    assert ModelCard(render_model_card(both)).data.eval_results == ModelCard(render_model_card(RUN)).data.eval_results
    reported_only = render_model_card(replace(both, metrics={}, two_heads=False))
    results = ModelCard(reported_only).data.eval_results
    assert [result.metric_value for result in results] == [0.72202, 0.911]
    assert {result.source_url for result in results} == {"https://example.org"}
    assert section(reported_only, "### Measured").strip() == "Not measured for this card."
    assert "72.202" in section(reported_only, "### Reported by others")
    assert "72.202" not in section(reported_only, "### Measured")


ONE_HEAD = replace(
    RUN, two_heads=False, variant=None, metrics={"eval_top1": 0.5, "eval_top5": 1.0}, teacher=None, base_model=None
)
NO_HUB_IDS = replace(
    RUN,
    model_name="runs/ein 'Größen': \"Test\"",
    base_model="timm:deit_tiny_patch16_224@/weights/x.pth",
    dataset="scikit-learn's digits: 1",
    teacher="/home/alice/teacher",
)
CARDS = {
    "run": RUN,
    "one head": ONE_HEAD,
    "no Hub ids": NO_HUB_IDS,
    "least": ModelFacts(model_name="x", image_size=(32, 32), num_labels=2, two_heads=False),
}


@pytest.mark.parametrize("name", CARDS)
def test_card_is_valid_and_its_snippet_is_python(name: str) -> None:
    card = render_model_card(CARDS[name])
    assert metadata_errors(card) == []
    assert repr(CARDS[name].model_name) in ast.unparse(ast.parse(snippet(card)))
    assert "{{" not in card
    assert "None" not in card
    assert not re.search(r"\n\n\n", card)


def test_name_that_is_no_hub_id_stays_out_of_the_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = ModelCard(render_model_card(NO_HUB_IDS)).data
    assert metadata.base_model is None
    assert metadata.datasets is None
    monkeypatch.chdir(tmp_path)
    Path("outputs/run").mkdir(parents=True)  # a folder that looks like owner/name
    assert ModelCard(render_model_card(replace(RUN, base_model="outputs/run"))).data.base_model is None


def test_card_of_a_model_with_one_head_speaks_of_no_second() -> None:
    card = render_model_card(ONE_HEAD)
    assert "| class head (model output) | 50.00 | 100.00 |" in card
    assert "istillation head" not in card
    assert "Fusion" not in card


def test_accuracy_in_percent_is_refused() -> None:
    with pytest.raises(ValueError, match=r"an accuracy is 74\.5, but must be a fraction in \[0, 1\]"):
        render_model_card(replace(RUN, metrics={"eval_top1": 74.5}))


# ---- a run's directory ----


@pytest.fixture
def run_directory(tmp_path: Path, tiny_student: DeiTForImageClassificationWithTeacher) -> Path:
    tiny_student.save_pretrained(tmp_path)
    make_processor(32).save_pretrained(tmp_path)
    (tmp_path / "recipe.yaml").write_text("dataset_name: digits\nteacher_model_name_or_path: a/b\nseed: 7\n")
    (tmp_path / "eval_results.json").write_text(json.dumps(METRICS))
    (tmp_path / "training_curves.png").write_bytes(b"")
    return tmp_path


def test_facts_are_read_from_the_files_of_a_run(
    run_directory: Path, tiny_student: DeiTForImageClassificationWithTeacher
) -> None:
    facts = facts_of_run(run_directory, model_name="alice/tiny")
    assert facts.model_name == "alice/tiny"
    assert facts.num_parameters == sum(parameter.numel() for parameter in tiny_student.parameters())
    assert (facts.image_size, facts.num_labels, facts.two_heads) == ((32, 32), 5, True)
    assert (facts.teacher, facts.environment, facts.curves) == ("a/b", "seed 7", "training_curves.png")
    assert facts.evaluated_on == "scikit-learn's digits (evaluation split)"
    assert facts.crop == "short side resized to 32 pixels (bicubic), centre crop of 32x32"
    assert facts.architecture["layers"] == 3
    assert facts.metrics == METRICS
    assert facts.fusion == "mean of both heads' logits"
    assert metadata_errors(render_model_card(facts)) == []


def test_fusion_and_conditions_of_a_run_come_from_its_files(run_directory: Path) -> None:
    (run_directory / "recipe.yaml").write_text("eval_fusion: softmax_sum\n")
    metrics = {**METRICS, "eval_fusion": "softmax_sum", "eval_crop": "words"}
    (run_directory / "eval_results.json").write_text(json.dumps(metrics))
    facts = facts_of_run(run_directory)
    assert facts.fusion == "sum of both heads' softmaxes"
    assert metadata_errors(render_model_card(facts)) == []


def test_facts_of_a_plain_deit_that_was_only_saved(tmp_path: Path) -> None:
    config = DeiTConfig(image_size=32, hidden_size=24, num_attention_heads=3, use_distillation_token=False)
    DeiTForImageClassification(config).save_pretrained(tmp_path)
    make_processor(32).save_pretrained(tmp_path)
    facts = facts_of_run(tmp_path)
    assert (facts.two_heads, facts.num_labels, facts.recipe, facts.curves) == (False, 2, {}, None)
    assert section(render_model_card(facts), "### Measured").strip() == "Not measured."


def test_own_card_is_renewed_but_an_edited_one_is_kept(run_directory: Path, caplog: pytest.LogCaptureFixture) -> None:
    readme = run_directory / "README.md"
    facts = facts_of_run(run_directory)
    assert write_model_card(run_directory, facts)
    assert write_model_card(run_directory, replace(facts, environment="another machine"))
    assert "another machine" in readme.read_text()

    edited = readme.read_text().replace("another machine", "my machine")
    readme.write_text(edited)
    with caplog.at_level(logging.WARNING):
        assert not write_model_card(run_directory, facts)
    assert readme.read_text() == edited
    assert "was edited by hand" in caplog.text


@pytest.mark.parametrize("text", ["# My own card\n", ""])
def test_card_that_is_not_ours_is_kept(run_directory: Path, text: str) -> None:
    (run_directory / "README.md").write_text(text)
    assert not write_model_card(run_directory, RUN)
    assert (run_directory / "README.md").read_text() == text


def test_push_of_an_incomplete_directory_names_all_that_is_missing(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"lacks preprocessor_config\.json, model\.safetensors; name"):
        push_directory(tmp_path, "alice/tiny")
    with pytest.raises(FileNotFoundError, match="nowhere` is not a directory"):
        push_directory(tmp_path / "nowhere", "alice/tiny")


def test_push_asks_for_every_part_of_the_weights(run_directory: Path) -> None:
    (run_directory / "model.safetensors").rename(run_directory / "model-00001-of-00002.safetensors")
    parts = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (run_directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": parts}))
    with pytest.raises(FileNotFoundError, match=r"lacks model-00002-of-00002\.safetensors; name"):
        push_directory(run_directory, "alice/tiny")


def run_script(*arguments: str) -> int:
    """Runs scripts/push_to_hub.py in this process, which is offline, and returns its exit code."""
    path, argv = list(sys.path), sys.argv
    sys.argv = ["push_to_hub.py", *arguments]
    try:
        with pytest.raises(SystemExit) as exit_info:
            runpy.run_path(str(ROOT / "scripts/push_to_hub.py"), run_name="__main__")
    finally:
        sys.path[:], sys.argv = path, argv
    assert isinstance(exit_info.value.code, int)
    return exit_info.value.code


def test_script_tells_wrong_input_from_a_hub_that_fails(
    run_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_script("--help") == 0
    assert run_script(str(run_directory / "nowhere"), "--hub_model_id", "alice/tiny") == 2
    assert run_script(str(run_directory), "--hub_model_id", "no//name") == 2
    capsys.readouterr()
    assert run_script(str(run_directory), "--hub_model_id", "alice/tiny") == 3
    printed = capsys.readouterr().err.splitlines()
    assert [line.startswith("error: ") for line in printed] == [False] * (len(printed) - 1) + [True]
    assert printed[0].startswith("files to push to alice/tiny")


# ---- the cards of the published variants ----

PAPER = ("arXiv:2012.12877v2, table 5", "https://arxiv.org/abs/2012.12877v2")
HEADS_TABLE = ("arXiv:2012.12877v2, table 3", PAPER[1])
README = (
    "facebookresearch/deit at 7e160fe, README_deit.md",
    "https://github.com/facebookresearch/deit/blob/7e160fe/README_deit.md",
)
MMPRETRAIN = (
    "open-mmlab/mmpretrain at ee7f2e88, configs/deit",
    "https://github.com/open-mmlab/mmpretrain/tree/ee7f2e88/configs/deit",
)

# Percent, as printed. readme: top-1 and top-5 of the published weights. paper: top-1 on ImageNet, ReaL and V2
# (table 5). heads: top-1 of class head and distillation head (table 3).
REPORTED = {
    "deit_tiny_patch16_224": {"readme": ("72.202", "91.124"), "paper": ("72.2", "80.1", "60.4")},
    "deit_small_patch16_224": {"readme": ("79.854", "94.968"), "paper": ("79.8", "85.7", "68.5")},
    "deit_base_patch16_224": {"readme": ("81.846", "95.594"), "paper": ("81.8", "86.7", "71.5")},
    "deit_base_patch16_384": {
        "readme": ("82.890", "96.222"),
        "paper": ("83.1", "87.7", "72.4"),
        "mmpretrain": "83.04",
    },
    "deit_tiny_distilled_patch16_224": {
        "readme": ("74.476", "91.920"),
        "paper": ("74.5", "82.1", "62.9"),
        "heads": ("73.9", "74.6"),
    },
    "deit_small_distilled_patch16_224": {
        "readme": ("81.164", "95.376"),
        "paper": ("81.2", "86.8", "70.0"),
        "heads": ("80.9", "81.1"),
    },
    "deit_base_distilled_patch16_224": {
        "readme": ("83.372", "96.482"),
        "paper": ("83.4", "88.3", "73.2"),
        "heads": ("83.0", "83.1"),
    },
    "deit_base_distilled_patch16_384": {
        "readme": ("85.224", "97.186"),
        "paper": ("85.2", "89.3", "75.2"),
        "300 epochs": ("84.5", "89.0", "74.8"),
        "heads": ("84.2", "84.4"),
        "mmpretrain": "85.55",
    },
}
VALIDATION, REAL, V2 = "ImageNet-1k validation", "ImageNet ReaL", "ImageNet V2"
FROM_SCRATCH = (
    "{epochs} epochs at 224x224 on ImageNet-1k with the recipe of the paper's table 9: AdamW, a global batch of 1024, "
    "cosine schedule with 5 epochs of warm-up, RandAugment, mixup, cutmix, random erasing, stochastic depth 0.1, "
    "label smoothing 0.1 and 3 repeats of each image."
)
TEACHER = " The distillation head was trained on the classes predicted by a RegNetY-16GF (82.9 top-1 in table 5)."
FINE_TUNING = {
    "deit_base_patch16_384": " Then fine-tuned at 384x384: about 25 epochs by the paper, 30 by the published command.",
    "deit_base_distilled_patch16_384": (
        " Then fine-tuned at 384x384, again with a teacher; the options of this fine-tuning were not published."
    ),
}
PROCESSOR_NOTE = (
    "The accuracies are those with the paper's preprocessing: short side resized to {short_side} pixels (bicubic), "
    "centre crop of {size}x{size}, ImageNet mean and standard deviation. "
    "`deit_hf.model.image_processing_deit.make_processor({size})` creates this image processor. Earlier revisions of "
    "`preprocessor_config.json` in the facebook/deit repositories preprocess images differently (square resize, no "
    "margin around the crop, or mean and standard deviation 0.5); the current revisions were not checked."
)


def reported_rows(variant: str) -> list[ReportedAccuracy]:
    """Returns all numbers that others published for a variant, first those of the published weights themselves."""
    numbers, distilled = REPORTED[variant], "distilled" in variant
    answer = "mean of both heads" if distilled else "class head"
    if "300 epochs" in numbers:
        answer += ", 1000 epochs"
    top1, top5 = numbers["readme"]
    rows = [ReportedAccuracy(answer, VALIDATION, top1, *README, top5=top5)]
    for key, of in (("paper", answer), ("300 epochs", "mean of both heads, 300 epochs")):
        for data, value in zip((VALIDATION, REAL, V2), numbers.get(key, ()), strict=False):
            rows.append(ReportedAccuracy(of, data, value, *PAPER))
    for head, value in zip(("class head", "distillation head"), numbers.get("heads", ()), strict=False):
        rows.append(ReportedAccuracy(f"{head}, 300 epochs", VALIDATION, value, *HEADS_TABLE))
    if "mmpretrain" in numbers:
        crop = "whole image resized to 384x384"
        rows.append(ReportedAccuracy(answer, VALIDATION, numbers["mmpretrain"], *MMPRETRAIN, crop=crop))
    return rows


def published_facts(variant: str) -> ModelFacts:
    config, distilled = DeiTConfig.from_variant(variant), "distilled" in variant
    with torch.device("meta"):
        model = (DeiTForImageClassificationWithTeacher if distilled else DeiTForImageClassification)(config)
    size = config.image_size
    base_models = {
        "deit_base_patch16_384": "facebook/deit-base-patch16-224",
        "deit_base_distilled_patch16_384": "the same model after 1000 epochs at 224x224",
    }
    epochs = 1000 if "300 epochs" in REPORTED[variant] else 300
    training = FROM_SCRATCH.format(epochs=epochs) + TEACHER * distilled + FINE_TUNING.get(variant, "")
    return ModelFacts(
        model_name=f"facebook/{variant.replace('_', '-')}",
        variant=variant,
        image_size=(size, size),
        num_labels=1000,
        two_heads=distilled,
        architecture={
            "patch size": config.patch_size,
            "layers": config.num_hidden_layers,
            "width": config.hidden_size,
            "attention heads": config.num_attention_heads,
        },
        num_parameters=sum(parameter.numel() for parameter in model.parameters()),
        from_scratch=variant not in base_models,
        license="apache-2.0",
        base_model=base_models.get(variant),
        teacher="RegNetY-16GF" if distilled else None,
        dataset="ILSVRC/imagenet-1k",
        reported=reported_rows(variant),
        training=training,
        notes=[PROCESSOR_NOTE.format(size=size, short_side=int(size / 0.875))],
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_card_is_what_the_template_renders(variant: str) -> None:
    """If the environment variable WRITE_MODEL_CARDS is set, this writes the cards instead; then check the diff."""
    path, card = ROOT / "model_cards" / f"{variant}.md", render_model_card(published_facts(variant))
    if "WRITE_MODEL_CARDS" in os.environ:
        path.write_text(card, encoding="utf-8")
    assert path.read_text(encoding="utf-8") == card


@pytest.mark.parametrize("variant", VARIANTS)
def test_published_card_holds_the_reported_numbers_apart_from_measured_ones(variant: str) -> None:
    card = (ROOT / "model_cards" / f"{variant}.md").read_text(encoding="utf-8")
    numbers = [number for value in REPORTED[variant].values() for number in ([value] if type(value) is str else value)]
    rows = re.findall(r"^\| .* \|$", section(card, "### Reported by others"), re.MULTILINE)[1:]  # without the header
    printed = [cell for row in rows for cell in row.strip("| ").split(" | ")[3:5] if cell != "–"]
    assert sorted(printed) == sorted(numbers)
    assert section(card, "### Measured").strip() == "Not measured for this card."
    top1, top5 = (float(number) / 100 for number in REPORTED[variant]["readme"])
    results = ModelCard(card).data.eval_results
    assert [result.metric_value for result in results] == pytest.approx([top1, top5])
    assert metadata_errors(card) == []
    assert f"facebook/{variant.replace('_', '-')}" in ast.unparse(ast.parse(snippet(card)))


@pytest.mark.skipif(
    int(huggingface_hub.__version__.split(".")[0]) < 2, reason="older clients check cards at one fixed address only"
)
def test_cards_are_valid_by_the_client_s_own_check(tmp_path: Path) -> None:
    for name, facts in CARDS.items():
        (tmp_path / f"{name}.md").write_text(render_model_card(facts), encoding="utf-8")
    (tmp_path / "wrong.md").write_text("---\nlicense: none of these\n---\n", encoding="utf-8")
    code = """
import sys
from huggingface_hub import ModelCard
for path in sys.argv[1:]:
    try:
        ModelCard.load(path).validate()
    except ValueError as error:
        print(path, error)
"""
    paths = [*sorted((ROOT / "model_cards").glob("*.md")), *sorted(tmp_path.glob("*.md"))]
    with LocalHub() as hub:
        environment = hub.client_environment(tmp_path / "home")
        command = [sys.executable, "-c", code, *map(str, paths)]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=PATIENCE)
        assert result.returncode == 0, result.stderr
        assert len(hub.seen("POST", "^/api/validate-yaml")) == len(VARIANTS) + len(CARDS) + 1
    assert re.fullmatch(r".*wrong\.md .*license.* must be one of .*\n", result.stdout)
