"""One run, from options to the files that it leaves: what scripts/train.py and scripts/evaluate.py do."""

import importlib.util
import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any

import datasets
import timm
from torch import nn
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModelForImageClassification,
    PreTrainedModel,
    TimmWrapperConfig,
    TimmWrapperForImageClassification,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

from .arguments import DataArguments, DistillationArguments, ModelArguments
from .configuration_deit import DeiTConfig
from .dataset_sources import class_names, load_image_datasets
from .modeling_deit import DeiTForImageClassification, DeiTForImageClassificationWithTeacher
from .recipes import write_recipe
from .teacher import Teacher, check_model_source, create_timm_model, is_timm_source
from .trainer import DistillationTrainer
from .transforms import make_processor
from .visualization import plot_training_curves

logger = logging.getLogger(__name__)


def train(model_args: ModelArguments, data_args: DataArguments, args: DistillationArguments) -> dict[str, float]:
    """Trains a student and leaves model, processor, recipe, metrics and trainer state in `args.output_dir`.

    Goes on from the last checkpoint there, if there is one.

    Returns:
        The metrics of the last evaluation, or of the training where there is nothing to evaluate on.

    Raises:
        ValueError: options, data, student and teacher do not fit each other.
        OSError: a source is not found.
        FileExistsError: `args.output_dir` holds something else.
    """
    checkpoint = _checkpoint_to_resume(args)
    set_seed(args.seed)
    train_rows, eval_rows = load_image_datasets(data_args)
    assert train_rows is not None
    labels = _label_config(train_rows, data_args.label_column_name)
    student, processor = build_student(model_args, labels)
    teacher = None
    if model_args.teacher_model_name_or_path is not None:
        teacher = Teacher.from_pretrained(
            model_args.teacher_model_name_or_path,
            student_config=student.config,
            student_mean=tuple(processor.image_mean),
            student_std=tuple(processor.image_std),
        )
    trainer = DistillationTrainer(
        student,
        args,
        teacher=teacher,
        train_dataset=train_rows,
        eval_dataset=eval_rows,
        processing_class=processor,
        image_column_name=data_args.image_column_name,
        label_column_name=data_args.label_column_name,
    )
    result = trainer.train(resume_from_checkpoint=checkpoint)
    return _save(trainer, result.metrics, model_args, data_args)


def _save(
    trainer: DistillationTrainer, metrics: dict[str, float], model_args: ModelArguments, data_args: DataArguments
) -> dict[str, float]:
    """Writes a finished run; the model first, so that nothing that follows can lose it."""
    args = trainer.args
    trainer.save_model()
    trainer.save_state()
    trainer.save_metrics("train", metrics)
    if trainer.is_world_process_zero():
        write_recipe(Path(args.output_dir) / "recipe.yaml", model_args, data_args, args)
    if trainer.eval_dataset is not None:
        metrics = trainer.evaluate()
        trainer.log_metrics("eval", metrics)
        trainer.save_metrics("eval", metrics)
    if trainer.is_world_process_zero() and importlib.util.find_spec("matplotlib") is not None:
        plot_training_curves(trainer.state.log_history, Path(args.output_dir) / "training_curves.png")
    if args.push_to_hub:
        trainer.push_to_hub()  # writes the card, too
    else:
        trainer.create_model_card()
    return metrics


def evaluate(model_name_or_path: str, data_args: DataArguments, args: DistillationArguments) -> dict[str, float]:
    """Accuracy of a saved model on the evaluation split; of both heads and their mean if it has two.

    Raises:
        ValueError: the model's labels and the data's do not fit.
        OSError: a source is not found.
    """
    model, processor = load_classifier(model_name_or_path)
    _, eval_rows = load_image_datasets(data_args, train=False)
    assert eval_rows is not None
    _check_label_order(class_names(eval_rows, data_args.label_column_name), model.config.id2label)
    trainer = DistillationTrainer(
        model,
        args,
        eval_dataset=eval_rows,
        processing_class=processor,
        image_column_name=data_args.image_column_name,
        label_column_name=data_args.label_column_name,
    )
    return trainer.evaluate()


def load_classifier(source: str) -> tuple[PreTrainedModel, Any]:
    """A trained classifier and its processor, of this package if it is a DeiT.

    Raises:
        OSError: the source is not found.
    """
    model: PreTrainedModel = _deit_class(source).from_pretrained(source)
    return model, AutoImageProcessor.from_pretrained(source)


def build_student(model_args: ModelArguments, labels: dict[str, Any]) -> tuple[PreTrainedModel, Any]:
    """The student that the options name, with the data's labels, and its processor.

    Args:
        model_args: names the student.
        labels: `num_labels`, and `id2label` and `label2id` where the classes have names.

    Raises:
        ValueError: an unknown variant or option.
        OSError: the weights are not found.
    """
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
    new_heads = AutoConfig.from_pretrained(source).num_labels != labels["num_labels"]
    student = student_class.from_pretrained(source, **labels, **sizes, ignore_mismatched_sizes=new_heads)
    if student_class is AutoModelForImageClassification:
        return student, AutoImageProcessor.from_pretrained(source)
    return student, make_processor(student.config.image_size)


def _refuse_deit_options(source: str, **options: Any) -> None:
    given = ", ".join(f"`{name}`" for name, value in options.items() if value is not None)
    if given:
        raise ValueError(f"{given} can be set for a DeiT, but `{source}` is of another type")


def _deit_class(source: str, with_token: bool | None = None) -> Any:
    """The class for saved weights: ours for `deit` and `vit`, with the token as the weights have it unless said."""
    check_model_source(source)
    model_type = AutoConfig.from_pretrained(source).model_type
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


def _label_config(rows: datasets.Dataset, label_column_name: str) -> dict[str, Any]:
    """The data's label set as a model's config wants it."""
    names = class_names(rows, label_column_name)
    if names is None:
        feature = rows.features[label_column_name]
        if not re.fullmatch(r"u?int\d+", getattr(feature, "dtype", "")):
            raise TypeError(
                f"column `{label_column_name}` holds {feature}, but labels must be class indices or names; set "
                "`label_column_name`"
            )
        return {"num_labels": max((label for label in rows[label_column_name] if label is not None), default=1) + 1}
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
    }


def _check_label_order(names: list[str] | None, id2label: dict[int, str]) -> None:
    """Refuses data that counts the model's labels in another order; other names may mean the same."""
    own = [id2label[index] for index in sorted(id2label)]
    if names is None or names == own:
        return
    for index, name in enumerate(names):
        if name in own and own[index : index + 1] != [name]:
            raise ValueError(
                f"label {name!r} has index {index} in the data but {own.index(name)} in the model; bring the data's "
                "labels into the model's order with `dataset.align_labels_with_mapping`"
            )
    others = [name for name in names if name not in own]
    if others:
        logger.warning("labels have other names in the data (%s, ...) than in the model (%s, ...)", others[0], own[0])


def _checkpoint_to_resume(args: DistillationArguments) -> str | None:
    """The checkpoint to go on from; refuses an output directory that holds something else."""
    output_dir = Path(args.output_dir)
    if args.overwrite_output_dir:
        if args.process_index == 0:
            for checkpoint in output_dir.glob("checkpoint-*"):
                shutil.rmtree(checkpoint)
        return None
    if args.resume_from_checkpoint is not None:
        return str(args.resume_from_checkpoint)
    last = get_last_checkpoint(args.output_dir) if output_dir.is_dir() else None
    if last is not None:
        logger.warning("going on from %s; start anew with --overwrite_output_dir", last)
    elif output_dir.is_dir() and os.listdir(output_dir):
        raise FileExistsError(
            f"`output_dir` {output_dir} is not empty and holds no checkpoint to go on from; name another one, or pass "
            "--overwrite_output_dir"
        )
    return last
