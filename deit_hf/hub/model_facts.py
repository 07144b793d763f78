"""What a model card says, as plain data, read from the files that a run left.

Measured and reported numbers stay apart. How the facts become a card is in model_card.py.
"""

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml
from safetensors import safe_open

from ..evaluation.fusion import FUSIONS
from ..model.image_processing_deit import crop_in_words
from .run_files import read_json, require_files


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
            `_distillation` and `_average`; of averaged weights under `eval_ema_top1` and so on; of several
            evaluation sets under `eval_SET_top1` and so on; others are left out.
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
        return any(name.startswith("eval_ema_") and "top1" in name for name in self.metrics)

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
    evaluated_on = f"{shown(dataset)} ({split})" if dataset else None
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


def shown(value: Any) -> Any:
    """A value as a card shows it: of a path on this machine only its name."""
    return Path(value).name if isinstance(value, str) and os.path.isabs(value) else value
