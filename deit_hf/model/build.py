"""The student that a run starts from: a variant from scratch, saved weights, or a model of timm; and its processor."""

from typing import Any

import timm
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
)

from .arguments import ModelArguments
from .configuration_deit import DeiTConfig
from .image_processing_deit import make_processor, with_crop
from .modeling_deit import DeiTForImageClassification, DeiTForImageClassificationWithTeacher
from .safe_loading import check_recorded_weights, named_errors
from .timm_models import create_timm_model, is_timm_source


def load_classifier(source: str) -> tuple[PreTrainedModel, Any]:
    """A trained classifier and its processor, of this package if it is a DeiT.

    Raises:
        OSError: the source is not found.
    """
    with named_errors(source):
        model: PreTrainedModel = _deit_class(source).from_pretrained(source, trust_remote_code=False)
        return model, AutoImageProcessor.from_pretrained(source, trust_remote_code=False)


def build_student(model_args: ModelArguments, labels: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    """The student that the options name, with the data's labels, and its processor with the crop that they name.

    Args:
        model_args: names student and crop.
        labels: `num_labels`, and `id2label` and `label2id` where the classes have names.

    Raises:
        ValueError: an unknown variant or option.
        OSError: the weights are not found.
    """
    student, processor = _build_student(model_args, labels)
    return student, with_crop(processor, crop_ratio=model_args.eval_crop_ratio, eval_crop=model_args.eval_crop)


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
    if is_timm_source(source):
        _refuse_deit_options(source, drop_path_rate=model_args.drop_path_rate)
        return _timm_student(source, labels, model_args.image_size)
    return _pretrained_student(source, labels, sizes, model_args)


def _pretrained_student(
    source: str, labels: dict[str, Any], sizes: dict[str, Any], model_args: ModelArguments
) -> tuple[PreTrainedModel, Any]:
    """A student that starts from saved weights; with another number of classes it gets new heads."""
    with_token = model_args.use_distillation_token
    if with_token is None and model_args.teacher_model_name_or_path is not None:
        with_token = True
    student_class = _deit_class(source, with_token)
    if student_class is AutoModelForImageClassification:
        _refuse_deit_options(source, **sizes)
    new_heads = AutoConfig.from_pretrained(source, trust_remote_code=False).num_labels != labels["num_labels"]
    options = {**labels, **sizes, "ignore_mismatched_sizes": new_heads, "trust_remote_code": False}
    student = student_class.from_pretrained(source, **options)
    if student_class is AutoModelForImageClassification:
        return student, AutoImageProcessor.from_pretrained(source, trust_remote_code=False)
    return student, make_processor(student.config.image_size)


def _refuse_deit_options(source: str, **options: Any) -> None:
    given = ", ".join(f"`{name}`" for name, value in options.items() if value is not None)
    if given:
        raise ValueError(f"{given} can be set for a DeiT, but `{source}` is of another type")


def _deit_class(source: str, with_token: bool | None = None) -> Any:
    """The class for saved weights: ours for `deit` and `vit`, with the token as the weights have it unless said."""
    check_recorded_weights(source)
    with named_errors(source):
        model_type = AutoConfig.from_pretrained(source, trust_remote_code=False).model_type
    if model_type not in ("deit", "vit"):
        return AutoModelForImageClassification
    if with_token is None:
        stored = DeiTConfig.from_pretrained(source)
        one_head = "DeiTForImageClassification" in (stored.architectures or [])  # has the token, but does not read it
        with_token = stored.use_distillation_token and not one_head
    return DeiTForImageClassificationWithTeacher if with_token else DeiTForImageClassification


def _timm_student(source: str, labels: dict[str, Any], image_size: int | None) -> tuple[PreTrainedModel, Any]:
    """A model of timm in transformers' wrapper, with its own statistics and, unless said, its own resolution."""
    name = source.removeprefix("timm:").removeprefix("timm/").partition("@")[0]
    from_weights = "@" in source or source.startswith("timm/")
    module = create_timm_model(source, labels["num_labels"], pretrained=from_weights)
    pretrained_cfg: Any = module.pretrained_cfg
    if from_weights and pretrained_cfg["num_classes"] != labels["num_labels"]:
        _start_head_small(module)
    student = TimmWrapperForImageClassification(TimmWrapperConfig(architecture=name, **labels))
    student.timm_model.load_state_dict(module.state_dict())
    data_config = timm.data.resolve_model_data_config(module)
    size = (image_size, image_size) if image_size is not None else tuple(data_config["input_size"][1:])
    return student, make_processor(size, mean=data_config["mean"], std=data_config["std"])


def _start_head_small(module: nn.Module) -> None:
    """Starts a new classifier as DeiT's heads start; some of timm's start so large that fine-tuning is slow."""
    for layer in module.get_classifier().modules():  # type: ignore[operator]  # a method of all of timm's classifiers
        if isinstance(layer, (nn.Linear, nn.Conv2d)):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
