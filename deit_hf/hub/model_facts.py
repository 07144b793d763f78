"""What a model card says, as plain data, read from a model and from the files that a run left.

Measured and reported numbers stay apart. How the facts become a card is in model_card.py.
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
from .run_files import read_json


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
class PartFacts:
    """The images of one part of the data.

    Attributes:
        num_images: in all.
        by_class: of each class in label order; None where that is not known, or images have several labels.
    """

    num_images: int
    by_class: Sequence[int] | None = None


@dataclass(frozen=True)
class ModelFacts:
    """What a model card says.

    Attributes:
        model_name: Hub id or directory, as one loads it.
        image_size: pixels, (height, width).
        num_labels: classes.
        two_heads: whether there is a distillation head beside the class head.
        family: `deit`, `vit`, `timm_wrapper` or another `model_type` of transformers; says what is cited.
        variant: official name, such as `deit_tiny_distilled_patch16_224`.
        architecture: further lines of the table of properties, such as {"layers": 12}.
        num_parameters: of the model.
        class_names: in label order; empty where classes have none.
        is_trained: whether it was trained here.
        from_scratch: whether that began with random weights.
        base_model: whose weights it has, or began with.
        teacher: Hub id, file or timm name.
        dataset: what it was trained on: a Hub id, or any words.
        data: images of each part, such as `training` and `evaluation`.
        evaluated_on: what `metrics` were measured on, in words.
        metrics: as metric_names.py names them, fractions in [0, 1]; others are left out.
        crop: the evaluation view in words.
        fusion: how two heads answer together, in words; by the mean of logits the model itself does.
        environment: machine and versions of the measurement, in words.
        reported: numbers of others; the first is the metadata's where nothing was measured.
        training: about the training, in Markdown.
        in_force: what followed from the options in this training, a line for each matter.
        recipe: options in force.
        curves: file name of a picture beside the card.
        license: identifier of the Hub; none is claimed unless it is given.
        notes: further limits, one paragraph of Markdown each.
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
    crop: str = "not known"
    fusion: str = FUSIONS["logit_mean"]
    environment: str | None = None
    reported: Sequence[ReportedAccuracy] = ()
    training: str | None = None
    in_force: Mapping[str, str] = field(default_factory=dict)
    recipe: Mapping[str, Any] = field(default_factory=dict)
    curves: str | None = None
    license: str | None = None
    notes: Sequence[str] = ()

    @property
    def has_averages(self) -> bool:
        """Whether averaged weights were measured, which a run leaves in the folder `ema`."""
        return any("_ema_" in name and "top1" in name for name in self.metrics)

    @property
    def title(self) -> str:
        """The name without its owner or folder."""
        return PurePath(self.model_name).name or self.model_name

    @property
    def is_deit(self) -> bool:
        """Whether it is a DeiT; the paper's plain one has the type of all ViTs, so that its origin decides."""
        return self.family == "deit" or (
            self.family == "vit" and "deit" in PurePath(self.base_model or "").name.lower()
        )

    @property
    def follows_paper(self) -> str | None:
        """What of DeiT's paper this model has: its architecture, its distillation, both, or None of them."""
        parts = ["architecture"] if self.is_deit else []
        parts += ["distillation"] if self.teacher else []
        return " and ".join(parts) or None


def model_facts(model: PreTrainedModel, processor: Any) -> dict[str, Any]:
    """The facts in a model and its image processor; weights are not looked at, so that they may be anywhere."""
    config = model.config
    with torch.device("meta"):  # FSDP and DeepSpeed share out the parameters
        empty = type(model)(copy.deepcopy(config))
    words = {
        "patch_size": "patch size",
        "num_hidden_layers": "layers",
        "hidden_size": "width",
        "num_attention_heads": "attention heads",
    }
    shape = {word: getattr(config, name) for name, word in words.items() if hasattr(config, name)}
    of_timm = {"architecture": f"{config.architecture} of timm"} if config.model_type == "timm_wrapper" else {}
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
    """The facts in the files that a run left beside its model, as far as they are there."""
    recipe_file, curves = directory / "recipe.yaml", directory / "training_curves.png"
    recipe = yaml.safe_load(recipe_file.read_text(encoding="utf-8")) or {} if recipe_file.exists() else {}
    state = read_json(directory / "trainer_state.json")
    results = (read_json(directory / f"{part}_results.json") for part in ("eval", "test"))
    return {
        **recipe_facts(recipe),
        "is_trained": bool(recipe or state),
        "training": training_in_words(state, loads_best=bool(recipe.get("load_best_model_at_end"))),
        "metrics": {name: value for result in results for name, value in result.items()},
        "curves": curves.name if curves.exists() else None,
    }


def recipe_facts(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The facts in the options of a run."""
    start = recipe.get("model_name_or_path")
    facts: dict[str, Any] = {}
    from_scratch = bool(recipe.get("variant")) or (is_timm_source(start or "") and _is_random(start or ""))
    if recipe.get("variant"):
        facts["family"] = "deit"
        is_official = not recipe.get("config_overrides") and str(recipe.get("image_size") or "") in recipe["variant"]
        facts["variant"] = recipe["variant"] if is_official else None  # else another model by then
    if recipe.get("hub_model_id"):
        facts["model_name"] = recipe["hub_model_id"]
    dataset = _data_in_words(recipe, "train_dir")
    return {
        "from_scratch": from_scratch,
        "base_model": None if from_scratch else start,
        "teacher": recipe.get("teacher_model_name_or_path"),
        "dataset": dataset,
        "evaluated_on": _evaluated_on(recipe),
        "fusion": FUSIONS[recipe.get("eval_fusion", "logit_mean")],
        "environment": f"seed {recipe['seed']}" if "seed" in recipe else None,
        "recipe": recipe,
        **facts,
    }


def _is_random(source: str) -> bool:
    """Whether a model of timm begins with random weights: it names no file and no repository."""
    return source.startswith("timm:") and "@" not in source


def _data_in_words(recipe: Mapping[str, Any], folder: str) -> str | None:
    """A name on the Hub stays as it is; other words are none that could be taken for one."""
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
    """How long a training was, and which of its weights the model has.

    Args:
        state: the Trainer's, as in trainer_state.json.
        loads_best: whether the best checkpoint was loaded at the end.
    """
    step, last = state.get("global_step"), state.get("max_steps") or 0
    if not step:
        return None
    of = f" of the {last:,} that were planned" if step < last else ""
    words = f"Optimizer steps: {step:,}{of}; epochs: {state['epoch']:.4g}."
    if loads_best and state.get("best_model_checkpoint"):
        words += f" The weights are those of step {state['best_global_step']:,}, the best evaluation of this training."
    logged = {name: value for entry in state.get("log_history", ()) for name, value in entry.items()}
    for name, what in (("train_bad_steps", "steps with an infinite loss"), ("train_bad_images", "unreadable images")):
        words += f" {logged[name]:,} {what} were skipped." if logged.get(name) else ""
    return words
