"""The facts for a model card as plain data, read from a model and from the files of a run.

Measured and reported numbers are kept apart. model_card.py renders the card.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import Any

import torch
import yaml
from transformers import PreTrainedModel

from ..evaluation.fusion import FUSIONS
from ..model.image_processing_deit import crop_in_words, crop_size
from ..model.labels import real_names
from ..model.timm_models import is_timm_source
from .public_text import shown
from .run_files import CLASS_RESULTS, CONFUSION_MATRIX, CURVES, read_json


@dataclass(frozen=True)
class ReportedAccuracy:
    """An accuracy that others published.

    Attributes:
        answer: the head, model or training that it belongs to, in words.
        data: the dataset that it was measured on, in words.
        top1: percent, as printed in the source.
        source: name of the source.
        url: of the source.
        top5: percent, as printed in the source.
        crop: the crop of the evaluation, in words.
    """

    answer: str
    data: str
    top1: str
    source: str
    url: str
    top5: str | None = None
    crop: str = "centre, ratio 0.875"


@dataclass(frozen=True)
class PartFacts:
    """The images of one part of the data.

    Attributes:
        num_images: total number of images.
        by_class: number of images of each class in label order; None if unknown, or if images have several labels.
    """

    num_images: int
    by_class: Sequence[int] | None = None


@dataclass(frozen=True)
class ModelFacts:
    """The content of a model card.

    Attributes:
        model_name: Hub id or directory from which the model is loaded.
        image_size: (height, width) in pixels.
        num_labels: number of classes.
        two_heads: whether the model has a distillation head in addition to the class head.
        family: `deit`, `vit`, `timm_wrapper` or another `model_type` of transformers; selects the citation.
        variant: official name, such as `deit_tiny_distilled_patch16_224`.
        architecture: more rows for the table of properties, such as {"layers": 12}.
        num_parameters: number of parameters of the model.
        class_names: in label order; empty if the classes have no names.
        is_trained: whether the model was trained by deit_hf.
        from_scratch: whether the training started from random weights.
        base_model: source of the weights, or of the weights that the training started from.
        teacher: Hub id, file or timm name.
        dataset: training data, a Hub id or words.
        data: images of each part of the data, such as `training` and `evaluation`.
        evaluated_on: the data of `metrics`, in words.
        by_class: `classes` of `Confusion.report` for each measured set, by its title.
        confusion: file name of an image of the confusion matrix in the directory of the card.
        metrics: named as in metric_names.py; the card shows only accuracies and F1, which must be in [0, 1].
        crop: crop of the evaluation, in words.
        fusion: how the outputs of two heads are combined, in words; the model itself uses the mean of their logits.
        environment: seed, machine and versions of the measurement, in words.
        reported: numbers published by others; the first one is used in the metadata if nothing was measured.
        training: description of the training, in Markdown.
        effective_recipe: effective settings of the training, one line per topic.
        recipe: options of the training.
        curves: file name of an image of training curves in the directory of the card.
        license: identifier on the Hub; None states no license.
        notes: more limits, one paragraph of Markdown each.
    """

    model_name: str
    image_size: tuple[int, int]
    num_labels: int
    two_heads: bool
    family: str = "deit"
    variant: str | None = None
    architecture: Mapping[str, Any] = field(default_factory=dict)
    num_parameters: int | None = None
    class_names: Sequence[str] = ()
    is_trained: bool = True
    from_scratch: bool = False
    base_model: str | None = None
    teacher: str | None = None
    dataset: str | None = None
    data: Mapping[str, PartFacts] = field(default_factory=dict)
    evaluated_on: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    by_class: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    confusion: str | None = None
    crop: str = "unknown"
    fusion: str = FUSIONS["logit_mean"]
    environment: str | None = None
    reported: Sequence[ReportedAccuracy] = ()
    training: str | None = None
    effective_recipe: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    curves: str | None = None
    license: str | None = None
    notes: Sequence[str] = ()

    @property
    def has_averages(self) -> bool:
        """Whether averaged weights were measured; a run saves them in the folder `ema`."""
        return any("_ema_" in name and "top1" in name for name in self.metrics)

    @property
    def title(self) -> str:
        """The model's name without its owner or folder."""
        return PurePath(self.model_name).name or self.model_name

    @property
    def is_deit(self) -> bool:
        """Whether it is a DeiT; a plain DeiT has the type `vit` of any ViT, so the name of its base model decides."""
        return self.family == "deit" or (
            self.family == "vit" and "deit" in PurePath(self.base_model or "").name.lower()
        )

    @property
    def follows_paper(self) -> str | None:
        """What the model uses from the DeiT paper: architecture, distillation or both; None for neither."""
        parts = ["architecture"] if self.is_deit else []
        parts += ["distillation"] if self.teacher else []
        return " and ".join(parts) or None


def model_facts(model: PreTrainedModel, processor: Any) -> dict[str, Any]:
    """Returns the facts that a model's configuration and its image processor contain; the weights are not read."""
    config = model.config
    with torch.device("meta"):  # FSDP and DeepSpeed shard the model's own parameters
        empty = type(model)(copy.deepcopy(config))
    words = {
        "patch_size": "patch size",
        "num_hidden_layers": "layers",
        "hidden_size": "width",
        "num_attention_heads": "attention heads",
    }
    shape = {word: getattr(config, name) for name, word in words.items() if hasattr(config, name)}
    of_timm = {"architecture": f"{config.architecture} (timm)"} if config.model_type == "timm_wrapper" else {}
    has_token = config.model_type == "deit" and getattr(config, "use_distillation_token", True)
    is_new_deit = config.model_type == "deit" and not model.name_or_path
    return {
        "image_size": crop_size(processor),
        "num_labels": config.num_labels,
        "two_heads": hasattr(empty, "distillation_classifier"),
        "family": {"deit": "deit" if has_token or is_new_deit else "vit"}.get(config.model_type, config.model_type),
        "architecture": {**of_timm, **shape},
        "num_parameters": sum(parameter.numel() for parameter in empty.parameters()),
        "class_names": real_names(config.id2label) or (),
        "crop": crop_in_words(processor.to_dict()),
    }


def file_facts(directory: Path) -> dict[str, Any]:
    """Returns the facts in the files that a run saves with its model; missing files are skipped."""
    recipe_file = directory / "recipe.yaml"
    recipe = yaml.safe_load(recipe_file.read_text(encoding="utf-8")) or {} if recipe_file.exists() else {}
    state = read_json(directory / "trainer_state.json")
    results = (read_json(directory / f"{part}_results.json") for part in ("eval", "test"))
    return {
        **recipe_facts(recipe),
        "is_trained": bool(recipe or state),
        "training": training_in_words(state, loads_best=bool(recipe.get("load_best_model_at_end"))),
        "metrics": {name: value for result in results for name, value in result.items()},
        "by_class": {part: report["classes"] for part, report in read_json(directory / CLASS_RESULTS).items()},
        "confusion": CONFUSION_MATRIX if (directory / CONFUSION_MATRIX).exists() else None,
        "curves": CURVES if (directory / CURVES).exists() else None,
    }


def recipe_facts(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the facts in the options of a run."""
    start = recipe.get("model_name_or_path")
    facts: dict[str, Any] = {}
    from_scratch = bool(recipe.get("variant")) or (is_timm_source(start or "") and _is_random(start or ""))
    if recipe.get("variant"):
        facts["family"] = "deit"
        is_official = not recipe.get("config_overrides") and str(recipe.get("image_size") or "") in recipe["variant"]
        facts["variant"] = recipe["variant"] if is_official else None  # changed sizes are not the official variant
    if recipe.get("hub_model_id"):
        facts["model_name"] = recipe["hub_model_id"]
    dataset = _data_in_words(recipe, "train_dir")
    return {
        "from_scratch": from_scratch,
        "base_model": None if from_scratch else start,
        "teacher": recipe.get("teacher_model_name_or_path"),
        "dataset": dataset,
        "evaluated_on": _evaluated_on(recipe),
        "fusion": FUSIONS[recipe.get("fusion") or recipe.get("eval_fusion", "logit_mean")],  # its older name
        "environment": f"seed {recipe['seed']}" if "seed" in recipe else None,
        "recipe": recipe,
        **facts,
    }


def _is_random(source: str) -> bool:
    """Whether the name of a timm model has no weights: neither a file nor a repository on the Hub."""
    return source.startswith("timm:") and "@" not in source


def _data_in_words(recipe: Mapping[str, Any], folder: str) -> str | None:
    """Describes the data: a Hub id unchanged, other data in words that cannot be mistaken for a Hub id."""
    if recipe.get(folder):
        return f"images in {PurePath(recipe[folder]).name}"
    return "scikit-learn's digits" if recipe.get("dataset_name") == "digits" else recipe.get("dataset_name")


def _evaluated_on(recipe: Mapping[str, Any]) -> str | None:
    data = _data_in_words(recipe, "validation_dir") or _data_in_words(recipe, "train_dir")
    if data is None:
        return None
    labels = f", labels of {PurePath(recipe['label_file']).name}" if recipe.get("label_file") else ""
    return f"{shown(data)} ({recipe.get('eval_split') or 'evaluation split'}{labels})"


def training_in_words(state: Mapping[str, Any], *, loads_best: bool) -> str | None:
    """Describes the length of a training, and which of its weights the model has; None without a training.

    Args:
        state: of the `Trainer`, as in trainer_state.json.
        loads_best: whether the best checkpoint was loaded at the end.
    """
    step, last = state.get("global_step"), state.get("max_steps") or 0
    if not step:
        return None
    of = f" of {last:,} planned" if step < last else ""
    words = f"Optimizer steps: {step:,}{of}; epochs: {state['epoch']:.4g}."
    if loads_best and state.get("best_model_checkpoint"):
        words += f" The weights are those of step {state['best_global_step']:,}, which had the best evaluation result."
    logged = {name: value for entry in state.get("log_history", ()) for name, value in entry.items()}
    skipped = {"train_bad_steps": "steps with a non-finite loss or gradient", "train_bad_images": "unreadable images"}
    for name, what in skipped.items():
        words += f" {logged[name]:,} {what} were skipped." if logged.get(name) else ""
    return words
