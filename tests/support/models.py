"""Makes and saves small models of several kinds with class names."""

from pathlib import Path
from typing import Any

from transformers import (
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    ResNetConfig,
    ResNetForImageClassification,
)

from deit_hf import (
    DeiTConfig,
    DeiTForImageClassification,
    DeiTForImageClassificationWithTeacher,
)
from deit_hf.hub.model_facts import ModelFacts, file_facts, model_facts
from deit_hf.model.image_processing_deit import make_processor

NAMES = ["ant", "bee", "cat", "dog", "eel"]


def labels(names: list[str]) -> dict:
    """The fields of a model config for these classes."""
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def save(model: PreTrainedModel, path: Path) -> str:
    """Saves a model and its processor; returns the path."""
    model.save_pretrained(path)
    make_processor(32).save_pretrained(path)
    return str(path)


def make_model(kind: str, config: DeiTConfig) -> PreTrainedModel:
    """Makes a model of five classes whose random outputs differ clearly between images."""
    config.initializer_range = 0.5
    for name, value in labels(NAMES).items():
        setattr(config, name, value)
    if kind == "resnet":
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        return ResNetForImageClassification(ResNetConfig(**sizes, **labels(NAMES)))
    if kind == "distilled":
        return DeiTForImageClassificationWithTeacher(config)
    config.use_distillation_token = kind == "one head"  # transformers' DeiT with one head has the token, too
    return DeiTForImageClassification(config)


def facts_of_run(directory: Path, **others: Any) -> ModelFacts:
    """What the model and the files of a finished run tell; `others` are fields that are known better."""
    model = AutoModelForImageClassification.from_pretrained(directory)
    facts = model_facts(model, AutoImageProcessor.from_pretrained(directory))
    return ModelFacts(**{"model_name": directory.name, **facts, **file_facts(directory), **others})
