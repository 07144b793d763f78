"""Builds the student of a run, from scratch, from saved weights or from timm, and its image processor."""

import copy
import logging
from typing import Any

import timm
import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedConfig,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from .arguments import ModelArguments
from .configuration_deit import DeiTConfig
from .conversion import convert_checkpoint
from .distillation_token import without_token
from .image_processing_deit import make_processor, savable_processor, stored_settings, with_crop
from .labels import match_labels, named_labels, real_names
from .modeling_deit import DeiTForImageClassification, DeiTForImageClassificationWithTeacher
from .safe_loading import check_complete, check_recorded_weights, named_errors
from .timm_models import create_timm_model, is_deit_of_timm, is_timm_source, name_in_timm, names_weights
from .variants import VARIANTS

logger = logging.getLogger(__name__)


def load_classifier(source: str) -> tuple[PreTrainedModel, Any]:
    """Loads a trained classifier and its image processor; a DeiT becomes a model of this package.

    Raises:
        OSError: the source does not exist, or the Hub was not reached.
        ValueError: a file is damaged or could run code, or the weights do not fit the configuration or lack a part,
            such as the classifier.
    """
    with named_errors(source):
        loaded = _deit_class(source).from_pretrained(source, output_loading_info=True, trust_remote_code=False)
        model: PreTrainedModel = loaded[0]
        check_complete(source, loaded[1])
        return model, AutoImageProcessor.from_pretrained(source, trust_remote_code=False)


def build_student(model_args: ModelArguments, labels: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    """Builds the student with the classes of the data, and its image processor.

    Args:
        model_args: options that select the student and the crop of its processor.
        labels: of the data: `num_labels`, and `id2label` and `label2id` if the classes have names.

    Raises:
        ValueError: a variant or an option is unknown, or an option does not fit the student.
        OSError: the weights do not exist, or the Hub was not reached.
    """
    student, processor = _build_student(model_args, labels)
    return student, with_crop(processor, crop_ratio=model_args.crop_ratio, eval_crop=model_args.eval_crop)


def _build_student(model_args: ModelArguments, labels: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    sizes = {
        name: value
        for name, value in (("image_size", model_args.image_size), ("drop_path_rate", model_args.drop_path_rate))
        if value is not None
    }
    if model_args.variant is not None:
        assert not isinstance(model_args.config_overrides, str)
        config = DeiTConfig.from_variant(
            model_args.variant, **{**labels, **(model_args.config_overrides or {}), **sizes}
        )
        deit = DeiTForImageClassificationWithTeacher if config.use_distillation_token else DeiTForImageClassification
        return deit(config), make_processor(config.image_size)
    source = str(model_args.model_name_or_path)
    if is_deit_of_timm(source):
        return _deit_of_timm(source, labels, sizes, _wants_token(model_args))
    if is_timm_source(source):
        options = {"drop_path_rate": model_args.drop_path_rate}
        _refuse_deit_options(source, **options, use_distillation_token=model_args.use_distillation_token)
        return _timm_student(source, labels, model_args.image_size)
    return _pretrained_student(source, labels, sizes, model_args)


def becomes_deit(source: str) -> bool:
    """Whether weights become a DeiT of this package, which takes options such as `drop_path_rate`."""
    if is_timm_source(source):
        return is_deit_of_timm(source)
    return _deit_class(source) is not AutoModelForImageClassification


def _wants_token(model_args: ModelArguments) -> bool | None:
    """Whether a student from weights needs the distillation token; None keeps it as it is in the weights."""
    if model_args.use_distillation_token is None and model_args.teacher_model_name_or_path is not None:
        return True
    return model_args.use_distillation_token


def _pretrained_student(
    source: str, labels: dict[str, Any], sizes: dict[str, Any], model_args: ModelArguments
) -> tuple[PreTrainedModel, Any]:
    """Builds a student from saved weights, with new heads if the classes differ."""
    student_class = _deit_class(source, _wants_token(model_args))
    if student_class is AutoModelForImageClassification:
        _refuse_deit_options(source, **sizes, use_distillation_token=model_args.use_distillation_token)
    elif model_args.use_distillation_token is False:
        sizes = {**sizes, "use_distillation_token": False}
    stored = AutoConfig.from_pretrained(source, trust_remote_code=False)
    same_size = stored.num_labels == labels["num_labels"]
    known = _own_classes(source, stored, labels) if same_size else None
    options = {**labels, **(known or {}), **sizes, "ignore_mismatched_sizes": not same_size}
    student = student_class.from_pretrained(source, trust_remote_code=False, **options)
    if not same_size:
        _log_new_classifier(source, stored.num_labels, labels["num_labels"])
    if same_size and known is None:
        _restart_heads(student)
    if student_class is AutoModelForImageClassification:
        return student, savable_processor(AutoImageProcessor.from_pretrained(source, trust_remote_code=False))
    statistics = _statistics_of_vit(source) if stored.model_type == "vit" else {}
    return student, make_processor(student.config.image_size, **statistics)


def _log_new_classifier(source: str, num_own: int, num_classes: int) -> None:
    numbers = (source, num_own, num_classes)
    logger.warning("`%s` has %d classes and the data %d: the classifier is initialised at random", *numbers)


def _statistics_of_vit(source: str) -> dict[str, Any]:
    """Returns the mean and std that a ViT was trained with, often 0.5; a DeiT always has those of ImageNet."""
    stored = stored_settings(source)
    return {name: tuple(stored[f"image_{name}"]) for name in ("mean", "std") if stored.get(f"image_{name}")}


def _own_classes(source: str, stored: PreTrainedConfig, labels: dict[str, Any]) -> dict[str, Any] | None:
    """Returns the classes in the order of the saved heads, or None if they differ from the classes of the data."""
    names, own = real_names(labels.get("id2label")), real_names(stored.id2label)
    try:
        match = match_labels(
            names, None, own, stored.num_labels, side="the data", own_side=f"`{source}`", needs_all=True
        )
    except ValueError as error:
        logger.warning(
            "%s. The classifier is initialised at random for the classes of the data", str(error).partition("; ")[0]
        )
        return None
    if match.note is not None:
        logger.warning("%s; the classifier is kept", match.note)
    return labels if names is None or own is None else named_labels(own)


def head_names(student: PreTrainedModel) -> list[str]:
    """Returns the names of the classifiers' tensors: those whose shape depends on the number of classes."""
    config = copy.deepcopy(student.config)
    config.num_labels += 1
    with torch.device("meta"):
        sizes = {name: tensor.shape for name, tensor in type(student)(config).state_dict().items()}
    return [name for name, tensor in student.state_dict().items() if tensor.shape != sizes[name]]


def _restart_heads(student: PreTrainedModel) -> None:
    """Initialises the classifiers at random."""
    fresh = type(student)(student.config).state_dict()
    student.load_state_dict({name: fresh[name] for name in head_names(student)}, strict=False)


def _refuse_deit_options(source: str, **options: Any) -> None:
    given = ", ".join(f"`{name}`" for name, value in options.items() if value is not None)
    if given:
        raise ValueError(f"{given} can be set only for a DeiT, but `{source}` is of another type; leave it out")


def _deit_class(source: str, with_token: bool | None = None) -> Any:
    """Returns the class that loads saved weights: one of ours for `deit` and `vit`.

    Args:
        source: directory or Hub id.
        with_token: whether the model needs the distillation token; None keeps it as it is in the weights.
    """
    check_recorded_weights(source)
    with named_errors(source):
        model_type = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
    if model_type not in ("deit", "vit"):
        return AutoModelForImageClassification
    if with_token is None:
        stored = DeiTConfig.from_pretrained(source)
        one_head = "DeiTForImageClassification" in (stored.architectures or [])  # the token has no head
        with_token = stored.use_distillation_token and not one_head
    return DeiTForImageClassificationWithTeacher if with_token else DeiTForImageClassification


def _deit_of_timm(
    source: str, labels: dict[str, Any], sizes: dict[str, Any], with_token: bool | None
) -> tuple[PreTrainedModel, Any]:
    """Builds a DeiT of this package from weights of timm, with new heads if the classes differ."""
    overrides = {name: value for name, value in sizes.items() if name != "image_size"}
    model: Any = convert_checkpoint(create_timm_model(source), **overrides)
    if with_token and not model.config.use_distillation_token:
        logger.warning(
            "%s has no distillation token: the token, its position and its head are initialised at random", source
        )
        model = DeiTForImageClassificationWithTeacher.from_plain(model)
    elif with_token is False and model.config.use_distillation_token:
        model = without_token(model, DeiTForImageClassification, source)
    known = None
    if model.config.num_labels == labels["num_labels"]:
        known = _own_classes(source, model.config, labels)
    else:
        _log_new_classifier(source, model.config.num_labels, labels["num_labels"])
    config = copy.deepcopy(model.config)
    for name, value in (known or labels).items():
        setattr(config, name, value)
    student = type(model)(config)
    kept = {name: x for name, x in model.state_dict().items() if known is not None or "classifier" not in name}
    student.load_state_dict(kept, strict=False)
    if "image_size" in sizes:
        student.resize_position_embeddings(sizes["image_size"])
    return student.eval(), make_processor(student.config.image_size)


def _timm_student(source: str, labels: dict[str, Any], image_size: int | None) -> tuple[PreTrainedModel, Any]:
    """Builds a timm model in transformers' wrapper; its mean, std and, by default, image size are those of timm."""
    name, from_weights = name_in_timm(source), names_weights(source)
    if name.partition(".")[0] in VARIANTS:
        raise ValueError(
            f"`model_name_or_path` is {source}, a DeiT without weights; train it from scratch with `--variant "
            f"{name.partition('.')[0]}`, or name weights as in {source}@FILE"
        )
    module = create_timm_model(source, labels["num_labels"], pretrained=from_weights)
    pretrained_cfg: Any = module.pretrained_cfg
    if from_weights and pretrained_cfg["num_classes"] != labels["num_labels"]:
        _start_head_small(module)
    student = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, **labels))
    student.timm_model.load_state_dict(module.state_dict())
    data_config = timm.data.resolve_model_data_config(module)
    own_size = tuple(data_config["input_size"][1:])
    size = (image_size, image_size) if image_size is not None else own_size
    if size != own_size:
        _check_size(student, size, source, own_size)
    return student, make_processor(size, mean=data_config["mean"], std=data_config["std"])


@torch.no_grad()
def _check_size(student: nn.Module, size: tuple[int, ...], source: str, own_size: tuple[int, ...]) -> None:
    """Tries another image size on an empty image, because some models of timm accept only one size."""
    try:
        student.eval()(pixel_values=torch.zeros(1, 3, *size))
    except (AssertionError, RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(
            f"`image_size` is {size[0]}, which `{source}` does not support ({' '.join(str(error).split())[:200]}); "
            f"its own size is {' x '.join(map(str, own_size))}: leave `image_size` out"
        ) from error


def _start_head_small(module: nn.Module) -> None:
    """Initialises a new classifier like DeiT's heads, because large initial values of timm slow down fine-tuning."""
    for layer in module.get_classifier().modules():  # type: ignore[operator]  # a method of all of timm's classifiers
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
