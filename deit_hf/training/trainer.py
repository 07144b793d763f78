"""The training of arXiv:2012.12877 as a `Trainer` of transformers: connects student, teacher, views and objective."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers import BaseImageProcessor, PreTrainedModel, TrainerCallback
from transformers.utils import ModelOutput

from ..data.bad_images import BadImageList
from ..distillation.losses import ObjectiveTerms, TopLogits, distillation_objective
from ..distillation.teacher import Teacher
from ..evaluation.metrics import HeadAccuracy
from ..evaluation.own_metrics import ComputeMetrics, PreprocessLogits
from ..hub.run_files import CURVES
from ..model.image_processing_deit import crop_size, statistics_of
from ..reliability.gradient_layout import SettleGradientLayout
from ..reliability.numerical_faults import NumericalFaults
from .arguments import DistillationArguments
from .card_facts import evaluation_facts, run_facts
from .class_weights import ClassWeights, weights_in_words
from .global_batch import warn_of_global_batch
from .input_pipeline import EpochOfViews
from .recipe_file import write_recipe
from .run_figures import FirstViews, TrainingCurves
from .run_summary import LogRunSummary, Run
from .same_run import SameRun, Training
from .teacher_trainer import TeacherTrainer
from .trainer_arguments import check_trainer_arguments
from .view_trainer import EvaluationRows, TrainingRows


class DistillationTrainer(TeacherTrainer):
    """Trains an image classifier, with or without a teacher, on a dataset or stream of labelled images.

    A model with a distillation head learns from the teacher on that head. Any other model learns from both labels
    and teacher on its only head ("usual distillation", table 3).

    Training logs `loss`, `loss_cls` and, with a teacher, `loss_distillation` and `teacher_agreement`, all averaged
    over the same steps. With `layer_decay`, `learning_rate` is that of the highest trained layer, usually the heads.

    `evaluate` returns `eval_loss` and the accuracies of both heads and their mean: `eval_top1_cls`,
    `eval_top1_distillation`, `eval_top1_average`, and the same for `top5`. A model with one head has `eval_top1` and
    `eval_top5`. With `ema_decay`, the averaged weights are evaluated, too: `eval_ema_loss` and so on.
    """

    def __init__(
        self,
        model: PreTrainedModel | None = None,
        args: DistillationArguments | None = None,
        *,
        teacher: Teacher | None = None,
        train_dataset: TrainingRows | None = None,
        eval_dataset: EvaluationRows | None = None,
        processing_class: BaseImageProcessor | None = None,
        image_column_name: str = "image",
        label_column_name: str = "label",
        model_init: Callable[..., PreTrainedModel] | None = None,
        compute_metrics: ComputeMetrics | None = None,
        preprocess_logits_for_metrics: PreprocessLogits | None = None,
        callbacks: list[TrainerCallback] | None = None,
        optimizers: tuple[Optimizer | None, LRScheduler | None] = (None, None),
        optimizer_cls_and_kwargs: tuple[type[Optimizer], dict[str, Any]] | None = None,
        compute_loss_func: None = None,
        data_collator: None = None,
    ):
        """Checks that model, teacher, processor and data fit each other.

        Args:
            model: the student: a DeiT of this package or any other image classifier of transformers.
            args: the recipe. Options that are changed on `trainer.args` take effect at the next `train()`.
            teacher: required if `distillation_type` is soft or hard, refused if it is none. With `teacher_cache` it
                can be left out; it is only compared with the one that gave the stored answers.
            train_dataset: images with labels. A stream (streaming.py) must be neither shuffled nor split by node.
            eval_dataset: images with labels, not a stream, or a dict of several such datasets. An image may have a
                list of correct labels.
            processing_class: image processor with the student's mean and std. Default: the paper's evaluation view.
            image_column_name: column with the images.
            label_column_name: column with the class indices.
            model_init: creates a new student for each `train()`; give it instead of `model`. It takes no argument,
                or the trial of `hyperparameter_search`.
            compute_metrics: `EvalPrediction` -> metrics to report in addition to the accuracies (own_metrics.py).
            preprocess_logits_for_metrics: (logits, labels) -> `predictions` for `compute_metrics`.
            callbacks: further callbacks.
            optimizers: optimizer and schedule to use instead of those of the options; each may be None.
            optimizer_cls_and_kwargs: optimizer class and its arguments; no decay of biases, norms, tokens, positions.
            compute_loss_func: refused; override `compute_loss` in a subclass instead.
            data_collator: refused; the trainer makes its batches itself.

        Raises:
            TypeError: an argument has the wrong type.
            ValueError: two arguments do not fit each other; the message names both.
        """
        check_trainer_arguments(
            model, args, model_init, optimizers, optimizer_cls_and_kwargs, compute_loss_func, data_collator
        )
        assert args is not None
        columns: Any = {"image_column_name": image_column_name, "label_column_name": label_column_name}
        own: Any = {"compute_metrics": compute_metrics, "callbacks": callbacks, "optimizers": optimizers}
        own["preprocess_logits_for_metrics"] = preprocess_logits_for_metrics
        own["optimizer_cls_and_kwargs"] = optimizer_cls_and_kwargs
        data: Any = {"train_dataset": train_dataset, "eval_dataset": eval_dataset}
        given: Any = {"model_init": model_init, "processing_class": processing_class, "teacher": teacher}
        super().__init__(model, args, **given, **data, **columns, **own)
        self._set_up()

    def _set_up(self) -> None:
        """Adds callbacks and checks options; needs the model, options and data that `Trainer.__init__` has stored."""
        # The objective is a mean over the local batch, so `Trainer` must divide it by the accumulation steps.
        # `Trainer` does not divide it for a model whose `forward` takes **kwargs, unless this is False.
        self.model_accepts_loss_kwargs = False
        args = self.args
        self.same_run, self._class_weights = SameRun(self._describe_training), ClassWeights()
        self.bad_images = BadImageList(args.output_dir)
        self.faults = NumericalFaults(
            self.step_outcome,
            max_bad_steps=args.max_bad_steps,
            checks_gradient=self.accelerator.scaler is None,
            steps_itself=self.is_deepspeed_enabled,
        )
        epochs = EpochOfViews(self._set_epoch)
        layout = SettleGradientLayout(lambda: self.model_wrapped, crop_size(self.processing_class))
        self.first_views = FirstViews(lambda: statistics_of(self.processing_class), lambda: self.model.config)
        for callback in (epochs, layout, self.faults, self.loss_log, self.bad_images, self.first_views):
            self.add_callback(callback)
        self._summary = LogRunSummary(self._describe_run, self.loss_log)
        self.callback_handler.callbacks.insert(1, self._summary)  # before the progress bar starts
        self._check_options()
        if self.train_dataset is not None and args.base_learning_rate is not None and args.process_index == 0:
            sizes = {"global_batch_size": args.global_batch_size}
            warn_of_global_batch(self.model.config, **sizes, num_accumulation_steps=args.gradient_accumulation_steps)
        self.take_teacher()

    def _set_epoch(self, epoch: int) -> None:
        assert self.view_sampler is not None
        self.view_sampler.set_epoch(epoch)

    def _check_options(self) -> None:
        """Refuses options that do not fit the model or the metrics."""
        if isinstance(self.compute_metrics, HeadAccuracy):
            if self.args.include_for_metrics:
                raise ValueError(
                    "`include_for_metrics` is given without a `compute_metrics` that would read it; leave it out"
                )
            self._views.check_best_metric(self.eval_dataset, self.model)
        self.class_weights()

    def take_options(self, *, of_trial: bool = False) -> bool:
        """Also checks the teacher and the record of the run against the new options."""
        changed = super().take_options(of_trial=of_trial)
        if changed:
            self.check_student(self.model.config, self.processing_class)
            self._check_options()
        if changed or self.has_other_views():
            self.take_teacher()
        if of_trial:
            self.same_run.forget()
            self.same_run.settle()
        return changed

    # ---- the objective ----

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """Computes the objective of one batch of training views (sec. 4).

        Overrides `Trainer.compute_loss`, which would treat mixed targets as multi-label ones.

        Args:
            model: the student, possibly wrapped, for example in DDP.
            inputs: `pixel_values` and `labels`, or a batch of the training data loader. The labels are targets (B, C),
                mixed and smoothed, whose rows sum to 1; or class indices (B,) if the recipe neither mixes nor smooths.
                `model(**inputs)` takes both.
            return_outputs: whether to return (loss, outputs of the student) instead of the loss.
            num_items_in_batch: ignored: the objective is a mean over the batch.
        """
        pixel_values = self._views.pixel_values(inputs)
        outputs = self._student_outputs(model, pixel_values)
        teacher_logits = self.teacher_logits(pixel_values)  # of the mixed image, as official losses.py:47
        targets = self._views.targets(inputs)  # (B, C)
        terms = self._objective(outputs, targets, teacher_logits)
        self.loss_log.add_terms(terms, taught_logits(outputs), teacher_logits)
        self.first_views.see_answers(teacher_logits)
        return (terms.loss, outputs) if return_outputs else terms.loss

    def _student_outputs(self, model: nn.Module, pixel_values: Tensor) -> ModelOutput:
        if self.args.student_mode == "eval":
            model.eval()  # `Trainer` has just set training mode
        return model(pixel_values=pixel_values)

    def _objective(
        self, outputs: ModelOutput, targets: Tensor, teacher_logits: Tensor | TopLogits | None
    ) -> ObjectiveTerms:
        args = self.args
        return distillation_objective(
            outputs.get("cls_logits", outputs["logits"]),
            outputs.get("distillation_logits"),
            targets,
            teacher_logits,
            distillation_type=args.distillation_type,
            weight=args.distillation_weight,
            temperature=args.distillation_temperature,
            reduction=args.distillation_reduction,
            label_loss=args.label_loss,
            class_weights=self.class_weights(),
        )

    def class_weights(self) -> Tensor | None:
        """Returns the class weights (C,) of the label loss, or None without `class_weighting`."""
        return self._class_weights(self.args.class_weighting, self.train_dataset, self.args.device)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Like `Trainer.training_step`, and also passes the loss to the check for infinite values and to the log."""
        self.bad_images.add(inputs.get("bad_images", ()))
        self.see_views(inputs)
        model_inputs = self._views.model_inputs(inputs)
        self.first_views.see(inputs, model_inputs["pixel_values"])
        loss = super().training_step(model, model_inputs, num_items_in_batch)
        self.faults.see(loss, model, step=self.state.global_step + 1, ends_step=self.accelerator.sync_gradients)
        self.loss_log.add_loss(loss * self.args.gradient_accumulation_steps)
        return loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Like `Trainer.log`, with the loss terms, at the end also facts of the run; raises after a bad step."""
        self.faults.check()
        self.loss_log.complete(logs, step=self.state.global_step)
        if "train_runtime" in logs and self.args.on_bad_image == "skip":
            logs["train_bad_images"] = self.bad_images.count()
        if "train_runtime" in logs and self.fit is not None:
            logs.update(self.fit.metrics())
        super().log(logs, start_time)

    # ---- summary, checkpoints and files of a run ----

    def _describe_training(self) -> Training:
        """Returns what `SameRun` records of this training."""
        optimizer = self.given_optimizer_name
        teacher = self.teacher if self.answers is None else self.answers.teacher_facts
        return Training(self.args, self.model.config, self.train_dataset, teacher, given_optimizer=optimizer)

    def _describe_run(self, num_steps: int) -> Run:
        """Returns what `LogRunSummary` logs of a training of `num_steps` optimizer steps."""
        args, sets = self.args, self.eval_dataset
        assert self.view_sampler is not None
        self.fit = self.measure_fit() if args.evaluate_teacher else None
        own = None if type(self).compute_loss is DistillationTrainer.compute_loss else type(self).__name__
        return Run(
            args=args,
            student=self.model,
            processor=self.processing_class,
            sampler=self.view_sampler,
            class_counts=self.train_dataset.images.class_counts(),
            optimizer=getattr(self.optimizer, "optimizer", self.optimizer),  # inside Accelerate's
            schedule=getattr(self.lr_scheduler, "scheduler", self.lr_scheduler),  # inside DeepSpeed's
            num_steps=num_steps,
            num_warmup_steps=None if self.has_given_schedule else self.num_warmup_steps(num_steps),
            precision=self.accelerator.mixed_precision,
            class_weights=weights_in_words(self.class_weights()),
            teacher=self.teacher if self.answers is None else self.answers,
            teacher_fit=self.fit,
            teacher_split=f"evaluation set `{next(iter(sets))}`" if isinstance(sets, dict) else "the evaluation split",
            given_optimizer=self.has_given_optimizer,
            own_objective=own,
            changes=self.same_run.changes_in_words(),
        )

    @property
    def effective_recipe(self) -> dict[str, str]:
        """Effective settings of the last training, one line per topic; empty before the first training."""
        return self._summary.recipe

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        """Like `Trainer._save_checkpoint`, but raises if the weights are not finite."""
        self.faults.check_before_saving(self.model, self.state.global_step)
        super()._save_checkpoint(model, trial)

    def running_state(self) -> dict[str, Any]:
        """Also returns the skipped steps."""
        return {**super().running_state(), "bad_steps": self.step_outcome.skipped_steps}

    def restore_running_state(self, state: dict[str, Any] | None) -> None:
        """Also restores or resets the skipped steps."""
        super().restore_running_state(state)
        self.step_outcome.skipped_steps = [] if state is None else state["bad_steps"]

    def run_facts(self) -> dict[str, Any]:
        """Returns the fields of `ModelFacts` that are known from the training."""
        if not self.state.global_step:
            return evaluation_facts(self.args)
        curves = [each for each in self.callback_handler.callbacks if isinstance(each, TrainingCurves)]
        facts = run_facts(
            self.args,
            self.same_run.groups,
            self.state,
            base_model=self.model.name_or_path or None,
            teacher=self.teacher_name if self._summary.teacher_was_asked else None,
            effective_recipe=self.effective_recipe,
        )
        return {**facts, "curves": CURVES if any(each.is_drawn for each in curves) else None}

    def write_missing_files(self) -> None:
        """Writes recipe.yaml of the last training; keeps an existing one if this trainer has not trained."""
        path = Path(self.args.output_dir) / "recipe.yaml"
        if self.effective_recipe or not path.exists():
            write_recipe(path, self.args, effective_recipe=self.effective_recipe, repeats=False)


def taught_logits(outputs: ModelOutput) -> Tensor:
    """Returns the logits (B, C) of the distillation head, or of the only head."""
    distillation_logits = outputs.get("distillation_logits")
    return outputs.get("cls_logits", outputs["logits"]) if distillation_logits is None else distillation_logits
