"""Model cards from plain data; measured and reported numbers stay apart.

It knows no trainer and no model: what it says of a run it reads from the files that the run left. The text of a card
is templates/model_card.md. Pushing is in hub.py.
"""

import hashlib
import itertools
import json
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from safetensors import safe_open

from .evaluation import FUSIONS
from .image_processing_deit import crop_in_words

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"

# The paper's class head, distillation head and their mean (table 3): part of a metric's name -> words of a card.
ANSWERS = {
    "": "class head (the model's answer)",
    "_average": "mean of both heads (the model's answer)",
    "_cls": "class head",
    "_distillation": "distillation head",
}
WEIGHTS = {"": "", "ema_": ", averaged weights"}  # whose answers: the same for the copy in the folder `ema`

_MARK = "<!-- written by deit_hf from the run's files; once edited it is not overwritten. Checksum: "


@dataclass(frozen=True)
class ReportedAccuracy:
    """A number that somebody else published.

    Attributes:
        answer: which model, training or head it belongs to.
        data: what it was measured on.
        top1: percent, as printed by the source.
        source: where it is printed.
        url: of the source.
        top5: percent, as printed by the source.
        crop: the evaluation view, where the source tells.
    """

    answer: str
    data: str
    top1: str
    source: str
    url: str
    top5: str | None = None
    crop: str = "centre, ratio 0.875"


@dataclass(frozen=True)
class ModelFacts:
    """What a model card says.

    Attributes:
        model_name: Hub id or directory, as one loads it.
        image_size: pixels, (height, width).
        num_labels: classes.
        two_heads: whether there is a distillation head beside the class head.
        variant: official name, such as `deit_tiny_distilled_patch16_224`.
        architecture: further lines of the table of properties, such as {"layers": 12}.
        num_parameters: of the saved model.
        base_model: what training started from; None is from scratch.
        teacher: Hub id, file or timm name.
        dataset: what it was trained on: a Hub id, or any words.
        evaluated_on: what `metrics` were measured on, in words.
        metrics: fractions in [0, 1] under `eval_top1`, `eval_top5`, or with two heads the same with `_cls`,
            `_distillation` and `_average`; of averaged weights under `eval_ema_top1` and so on; others are left out.
        crop: the evaluation view in words.
        fusion: how two heads answer together, in words; by the mean of logits the model itself does.
        environment: machine and versions of the measurement, in words.
        reported: numbers of others; the first is the metadata's where nothing was measured.
        training: about the training, in words.
        recipe: options in force.
        curves: file name of a picture beside the card.
        license: identifier of the Hub.
        notes: further limits, one paragraph each.
    """

    model_name: str
    image_size: tuple[int, int]
    num_labels: int
    two_heads: bool
    variant: str | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    num_parameters: int | None = None
    base_model: str | None = None
    teacher: str | None = None
    dataset: str | None = None
    evaluated_on: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    crop: str = "not known"
    fusion: str = FUSIONS["logit_mean"]
    environment: str | None = None
    reported: Sequence[ReportedAccuracy] = ()
    training: str | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)
    curves: str | None = None
    license: str = "apache-2.0"
    notes: Sequence[str] = ()

    @property
    def has_averages(self) -> bool:
        """Whether averaged weights were measured, which a run leaves in the folder `ema`."""
        return any(name.startswith("eval_ema_top1") for name in self.metrics)

    @property
    def title(self) -> str:
        """The variant, or the name without its owner or folder."""
        return self.variant or Path(self.model_name).name

    @classmethod
    def from_directory(cls, directory: str | Path, **others: Any) -> "ModelFacts":
        """What the files of a finished run tell.

        Args:
            directory: with at least config.json and preprocessor_config.json; recipe.yaml, eval_results.json, the
                weights and training_curves.png are read if they are there.
            others: fields that are known better, such as `model_name` or `environment`.

        Raises:
            FileNotFoundError: a needed file is missing.
        """
        directory = Path(directory)
        require_files(directory, ["config.json", "preprocessor_config.json"])
        recipe_file, curves = directory / "recipe.yaml", directory / "training_curves.png"
        recipe = yaml.safe_load(recipe_file.read_text(encoding="utf-8")) or {} if recipe_file.exists() else {}
        facts = cls(
            model_name=recipe.get("hub_model_id") or str(directory),
            **_config_facts(read_json(directory / "config.json")),
            **_recipe_facts(recipe),
            num_parameters=_count_parameters(directory),
            metrics=read_json(directory / "eval_results.json"),
            crop=crop_in_words(read_json(directory / "preprocessor_config.json")),
            curves=curves.name if curves.exists() else None,
        )
        return replace(facts, **others)


def read_json(path: Path) -> dict[str, Any]:
    """What a JSON file holds; nothing where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}


def _config_facts(config: dict[str, Any]) -> dict[str, Any]:
    """The facts in a model's config.json; models that are no DeiT tell less."""
    size = config.get("image_size", (224, 224))
    words = {
        "patch_size": "patch size",
        "num_hidden_layers": "layers",
        "hidden_size": "width",
        "num_attention_heads": "attention heads",
    }
    return {
        "image_size": (size, size) if isinstance(size, int) else tuple(size),
        "num_labels": len(config["id2label"]) if "id2label" in config else config.get("num_labels", 2),
        "two_heads": any("WithTeacher" in name for name in config.get("architectures") or []),
        "architecture": {word: config[name] for name, word in words.items() if name in config},
    }


def _recipe_facts(recipe: dict[str, Any]) -> dict[str, Any]:
    """The facts in a run's recipe.yaml."""
    dataset = recipe.get("dataset_name")
    if recipe.get("train_dir") or dataset == "digits":  # words, so that they are not taken for a name on the Hub
        dataset = f"images in {Path(recipe['train_dir']).name}" if recipe.get("train_dir") else "scikit-learn's digits"
    split = recipe.get("eval_split") or "evaluation split"
    evaluated_on = f"{_shown(dataset)} ({split})" if dataset else None
    return {
        "variant": None if recipe.get("config_overrides") else recipe.get("variant"),  # another model by then
        "base_model": recipe.get("model_name_or_path"),
        "teacher": recipe.get("teacher_model_name_or_path"),
        "dataset": dataset,
        "evaluated_on": evaluated_on,
        "fusion": FUSIONS[recipe.get("eval_fusion", "logit_mean")],
        "environment": f"seed {recipe['seed']}" if "seed" in recipe else None,
        "recipe": recipe,
    }


def _count_parameters(directory: Path) -> int | None:
    """Elements of all tensors in the directory's weights, read from the files' headers."""
    total = 0
    for path in directory.glob("*.safetensors"):
        with safe_open(path, framework="numpy") as weights:
            total += sum(math.prod(weights.get_slice(name).get_shape()) for name in weights.keys())  # noqa: SIM118
    return total or None


# ---- the card ----


def render_model_card(facts: ModelFacts) -> str:
    """A model card: YAML metadata as the Hub wants it, and text.

    Raises:
        ValueError: a metric is no fraction in [0, 1].
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(
        facts=facts,
        summary=_summary(facts),
        properties=_properties(facts),
        measured=_measured_rows(facts),
        recipe=_recipe_text(facts.recipe),
    )
    return f"---\n{_metadata(facts).to_yaml()}\n---\n\n{text}"


def _summary(facts: ModelFacts) -> str:
    deit = "A DeiT without distillation token" if facts.variant else "An image classifier"
    kind = "A DeiT with class and distillation token" if facts.two_heads else deit
    start = f"fine-tuned from {_shown(facts.base_model)}" if facts.base_model else "trained from scratch"
    dataset = f" on {_shown(facts.dataset)}" if facts.dataset else ""
    teacher = f", with {_shown(facts.teacher)} as its teacher" if facts.teacher else ""
    return f"{kind}, {start}{dataset}{teacher}."


def _properties(facts: ModelFacts) -> dict[str, Any]:
    """The lines of the table at the top; what is not known has none."""
    height, width = facts.image_size
    parameters = None if facts.num_parameters is None else f"{facts.num_parameters:,}"
    lines = {
        "variant": facts.variant,
        "image size": f"{height}x{width}",
        "classes": facts.num_labels,
        **facts.architecture,
        "parameters": parameters,
        "base model": _shown(facts.base_model),
        "teacher": _shown(facts.teacher),
        "training data": _shown(facts.dataset),
        "licence": facts.license,
    }
    return {name: value for name, value in lines.items() if value is not None}


def _shown(value: Any) -> Any:
    """A value as a card shows it: of a path on this machine only its name."""
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    shown = {name: _shown(value) for name, value in recipe.items() if value is not None}
    return yaml.safe_dump(shown, sort_keys=False, allow_unicode=True).strip() if shown else ""


def _answers(facts: ModelFacts) -> dict[str, str]:
    """`ANSWERS` for the fusion that was measured; only the mean of logits is what the saved model answers."""
    return ANSWERS if facts.fusion == FUSIONS["logit_mean"] else {**ANSWERS, "_average": facts.fusion}


def _measured_rows(facts: ModelFacts) -> list[dict[str, str]]:
    """One row for each answer that was measured, in percent."""
    rows = []
    for (infix, weights), (suffix, answer) in itertools.product(WEIGHTS.items(), _answers(facts).items()):
        values = {name: facts.metrics.get(f"eval_{infix}{name}{suffix}") for name in ("top1", "top5")}
        if values["top1"] is not None:
            rows.append({"answer": answer + weights, **{name: _percent(value) for name, value in values.items()}})
    return rows


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return "–"
    if not 0 <= fraction <= 1:
        raise ValueError(f"an accuracy is {fraction}, but must be a fraction in [0, 1]")
    return f"{100 * fraction:.2f}"


def _metadata(facts: ModelFacts) -> ModelCardData:
    """The YAML block; only Hub ids may stand for models and data sets there."""
    dataset = _hub_id(facts.dataset)
    teacher = {"teacher": _shown(facts.teacher)} if facts.teacher else {}  # the Hub has no field of its own for it
    tags = ["deit"] if facts.variant or facts.two_heads else []
    tags += ["distillation"] if facts.teacher or facts.two_heads else []
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license=facts.license,
        base_model=_hub_id(facts.base_model),
        datasets=[dataset] if dataset else None,
        metrics=["accuracy"],
        tags=[*tags, "vision", "arxiv:2012.12877"],
        model_name=facts.title,
        eval_results=_results(facts) or None,
        **teacher,
    )


def _results(facts: ModelFacts) -> list[EvalResult]:
    """The metadata's results: ours, or if we measured nothing the first that others reported; never both in one."""
    answers = ANSWERS  # also of what others report
    if facts.metrics or not facts.reported:
        data, source, values = str(facts.evaluated_on or "evaluation split"), None, dict(facts.metrics)
        answers = _answers(facts)
    else:
        row = facts.reported[0]
        data, source = row.data, row
        percents = {"eval_top1": row.top1, "eval_top5": row.top5}
        suffix = "_average" if facts.two_heads else ""
        values = {f"{name}{suffix}": float(value) / 100 for name, value in percents.items() if value is not None}
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=_hub_id(facts.dataset) or "other",
            dataset_name=data,
            metric_type="accuracy",
            metric_name=f"{name.replace('top', 'top-')}, {answer}",
            metric_value=round(values[f"eval_{name}{suffix}"], 6),
            verified=False,
            source_name=source.source if source else None,
            source_url=source.url if source else None,
        )
        for suffix, answer in answers.items()
        for name in ("top1", "top5")
        if f"eval_{name}{suffix}" in values
    ]


def _hub_id(name: str | None) -> str | None:
    """The name if it can be an id on the Hub; a path, a file and other words cannot."""
    if name is None or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def write_model_card(directory: str | Path, facts: ModelFacts, *, overwrite: bool = False) -> bool:
    """Writes `directory`/README.md, unless somebody edited the one that is there.

    A card of ours ends with its own checksum, so that any edit shows.

    Args:
        directory: where the run's files are.
        facts: what the card says.
        overwrite: write over an edited card, too.

    Returns:
        Whether the card was written.
    """
    path = Path(directory) / "README.md"
    if path.exists() and not overwrite and not _is_untouched(path.read_text(encoding="utf-8")):
        logger.warning("%s was edited by hand and stays as it is; move it away to get a new one", path)
        return False
    card = render_model_card(facts)
    path.write_text(f"{card}\n{_MARK}{_checksum(card)} -->\n", encoding="utf-8")
    return True


def _is_untouched(text: str) -> bool:
    card, _, checksum = text.rpartition(f"\n{_MARK}")
    return checksum == f"{_checksum(card)} -->\n"


def _checksum(card: str) -> str:
    return hashlib.sha256(card.encode()).hexdigest()[:16]


def require_files(directory: Path, names: Sequence[str]) -> None:
    """Raises FileNotFoundError that names all of the files that the directory of a run lacks."""
    if not directory.is_dir():
        raise FileNotFoundError(f"`{directory}` is no directory; name the `output_dir` of a finished run")
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise FileNotFoundError(
            f"`{directory}` lacks {', '.join(missing)}; name the `output_dir` of a finished run, or save the model "
            "and its image processor there with `save_pretrained`"
        )
