"""A `Trainer` of image classifiers on `datasets`: turns rows into views, and evaluates all heads."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import datasets
import torch
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import BaseImageProcessor, PreTrainedConfig, PreTrainedModel, TrainerState, set_seed
from transformers.trainer_utils import TrainOutput

from ..data.dataset import EvaluationViews, TrainingViews
from ..data.sampling import ViewSampler
from ..data.sources.shards import ShardedRows
from ..data.worker_crashes import named_crashes
from ..evaluation.metric_names import are_parts
from ..evaluation.metrics import head_logits, negative_log_likelihood
from ..evaluation.own_metrics import ComputeMetrics, PreprocessLogits, metrics_of
from ..hub.pushing_trainer import PushingTrainer
from ..model.compiled import without_compiled_names
from ..model.image_processing_deit import checked_processor
from ..model.target_loss import takes_targets
from ..reliability.out_of_memory import evaluation_advice, explained_out_of_memory, training_advice
from ..reliability.stop_signals import leaves_signals_to_the_main_process
from .arguments import DistillationArguments
from .ema import AveragedWeights, evaluate_averages
from .input_pipeline import InputPipeline
from .late_options import options_of, refuse_late_changes
from .optimizer import train_only

TrainingRows: TypeAlias = datasets.Dataset | datasets.IterableDataset | ShardedRows
EvaluationRows: TypeAlias = datasets.Dataset | dict[str, datasets.Dataset]


class ViewTrainer(PushingTrainer):
    """A `Trainer` that trains on views (augmented images) of rows, and evaluates all heads on the evaluation view.

    Everything that depends on options and rows, such as views and collator, is created with the trainer. It is created
    again at the start of a training if options or rows have changed. Objective and teacher are in trainer.py.
    """

    args: DistillationArguments
    model: Any
    optimizer: Any
    lr_scheduler: Any
    model_wrapped: Any
    data_collator: Any
    train_dataset: Any
    eval_dataset: Any

    def __init__(
        self,
        model: PreTrainedModel | None,
        args: DistillationArguments,
        *,
        model_init: Callable[..., PreTrainedModel] | None,
        train_dataset: TrainingRows | None,
        eval_dataset: EvaluationRows | None,
        processing_class: BaseImageProcessor | None,
        image_column_name: str,
        label_column_name: str,
        compute_metrics: ComputeMetrics | None,
        preprocess_logits_for_metrics: PreprocessLogits | None,
        **trainer_options: Any,
    ):
        """Takes the arguments of `DistillationTrainer`, except those of the objective."""
        self.args, self.model_init = args, model_init
        self._kept_loaders: list[DataLoader] = []  # of evaluations, with persistent workers
        self._awaits_trial = False  # whether a hyperparameter search is about to set options
        self.student_config: PreTrainedConfig | None = None
        if model is None:
            set_seed(args.seed)  # as `Trainer` does, which would create a second model
            model = self.call_model_init()
        else:
            model = self._as_student(model)
        processing_class = checked_processor(processing_class, model)
        self.student_config = model.config
        self._views = InputPipeline(args, processing_class, model.config, image_column_name, label_column_name)
        self._views.take_names(train_dataset)
        self.check_student(model.config, processing_class)
        self.view_sampler: ViewSampler | None = None
        self._train_rows = train_dataset
        super().__init__(
            model,
            args,
            train_dataset=None if train_dataset is None else self._views.training(train_dataset),
            eval_dataset=self._views.evaluations(eval_dataset),
            processing_class=processing_class,
            compute_metrics=metrics_of(compute_metrics, preprocess_logits_for_metrics),
            data_collator=self._views.collator(),
            **trainer_options,
        )
        self.model_init = model_init
        self._collator = self.data_collator
        self.label_names = ["labels"]
        self.ema: AveragedWeights | None = None
        self._ema_metrics: dict[str, float] = {}
        self._options = options_of(args)

    def check_student(self, config: PreTrainedConfig, processor: BaseImageProcessor) -> None:
        """Checks the student before any file is written; does nothing here, for subclasses to override."""

    # ---- the student ----

    def call_model_init(self, trial: Any = None) -> PreTrainedModel:
        """Like `Trainer.call_model_init`, but each student gets the class names and frozen parts of the first one."""
        student = self._as_student(super().call_model_init(trial))
        if self.student_config is not None:
            self._check_classes(student.config)
        return student

    def _as_student(self, model: nn.Module) -> PreTrainedModel:
        student = without_compiled_names(model)
        if not isinstance(student, PreTrainedModel):
            raise TypeError(
                f"`model` is a {type(student).__name__}, but must be an image classifier of transformers, such as "
                "deit_hf.DeiTForImageClassificationWithTeacher; timm's models are loaded by "
                "AutoModelForImageClassification.from_pretrained('timm/...')"
            )
        takes_targets(student)
        if self.args.train_only is not None:
            train_only(student, self.args.train_only)
        return student

    def _take_student(self) -> None:
        """Uses a model that was assigned to `trainer.model`; `Trainer` would save it, but train the previous one."""
        if self.model_init is not None:  # `Trainer` creates and wraps one
            return
        before = self.accelerator.unwrap_model(self.model_wrapped, keep_torch_compile=False)
        if self.model in (before, self.model_wrapped):
            return
        self.model = self._as_student(self.model)
        if self.model is not before:  # it can be the same model, compiled
            self._check_classes(self.model.config)
            self._start_with_model()

    def _start_with_model(self) -> None:
        """Moves a new model to the device, and resets the training state and the averages of the previous one."""
        if self.place_model_on_device:
            self.model.to(self.args.device)
        self.model_wrapped = self.model
        processes = {"is_local_process_zero": self.is_local_process_zero()}
        self.state = TrainerState(**processes, is_world_process_zero=self.is_world_process_zero())
        if self.ema is not None:
            self.ema.forget()

    def _check_classes(self, config: PreTrainedConfig) -> None:
        """Checks the number of classes of a later student, and gives it the class names of the first one."""
        assert self.student_config is not None
        if config.num_labels != self.student_config.num_labels:
            raise ValueError(
                f"the model has {config.num_labels} classes, but the trainer was created for one with "
                f"{self.student_config.num_labels}; return such a model from `model_init`, or create a new trainer"
            )
        config.id2label, config.label2id = self.student_config.id2label, self.student_config.label2id

    # ---- options and rows ----

    def train(self, resume_from_checkpoint: str | bool | None = None, **options: Any) -> TrainOutput:
        """Like `Trainer.train`, and names likely causes of a crashed data worker or an out-of-memory error."""
        if self.model is None:  # `Trainer` drops it between two trials
            self.model = self.call_model_init()
        self.take_options()
        self._awaits_trial = options.get("trial") is not None
        with named_crashes(), explained_out_of_memory(self._training_advice):
            return super().train(resume_from_checkpoint, **options)

    def create_accelerator_and_postprocess(self) -> None:
        """Like `Trainer`'s method, and also applies the options of a trial, which a search has set just before."""
        super().create_accelerator_and_postprocess()
        if self._awaits_trial:
            self._awaits_trial = False
            self.take_options(of_trial=True)

    def _training_advice(self) -> str:
        args = self.args
        batch = args.per_device_train_batch_size, args.gradient_accumulation_steps
        return training_advice(*batch, num_processes=args.world_size, even=args.mixes)

    def take_options(self, *, of_trial: bool = False) -> bool:
        """Applies the current options and rows; called before each training.

        Args:
            of_trial: whether a hyperparameter search has set the options.

        Returns:
            Whether options have changed since the last call.

        Raises:
            ValueError: an option is out of its range, contradicts another, or can no longer change.
        """
        self._take_student()
        try:
            self.args.settle()
            refuse_late_changes(self._options, options_of(self.args))
        except (TypeError, ValueError):
            if of_trial:  # or the next search would fail because of this trial's options
                for name, value in self._options.items():
                    setattr(self.args, name, value)
            raise
        now = options_of(self.args)
        changed = now != self._options
        if now["seed"] != self._options["seed"]:
            set_seed(self.args.seed)
        self._views = replace(self._views, args=self.args)
        self._take_rows(rebuild=changed)
        if self.data_collator is self._collator:  # not one that was assigned
            self.data_collator = self._collator = self._views.collator()
        self._options = options_of(self.args)  # `min_steps_per_epoch` may have made the batch smaller
        return changed

    def _take_rows(self, *, rebuild: bool) -> None:
        """Makes views of rows that were assigned to the trainer, and with `rebuild` of the current training rows."""
        if not isinstance(self.train_dataset, TrainingViews | None):
            self._train_rows, rebuild = self.train_dataset, True
        if rebuild and self.train_dataset is not None:
            self.train_dataset = self._views.training(self._train_rows)
        self._take_eval_rows()

    def _take_eval_rows(self) -> None:
        if not isinstance(self.eval_dataset, dict):
            self.eval_dataset = self._views.of_plain_rows(self.eval_dataset)

    # ---- data ----

    def get_train_dataloader(self) -> DataLoader:
        """Returns a loader of training views in the order of `view_sampler`, which is created here."""
        self._take_rows(rebuild=False)
        if self.train_dataset is None:
            raise ValueError("the trainer has no `train_dataset`, which `train` needs; create it with one")
        self.view_sampler = self.make_view_sampler()
        persistent = self.args.dataloader_persistent_workers
        return self._loader(self.train_dataset, self.args.train_batch_size, self.view_sampler, persistent=persistent)

    def make_view_sampler(self) -> ViewSampler:
        """Returns the sampler of the training views for the current options."""
        return self._views.sampler(self.train_dataset, step_size=self.get_total_train_batch_size(self.args))

    def get_eval_dataloader(self, eval_dataset: datasets.Dataset | EvaluationViews | str | None = None) -> DataLoader:
        """Returns a loader of evaluation views, also of a `datasets.Dataset`.

        Persistent workers are kept for the trainer's own evaluation sets alone.
        """
        self._take_eval_rows()
        views = self._views.named_views(eval_dataset, self.eval_dataset)
        own = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        if not self.args.dataloader_persistent_workers or all(views is not each for each in own):
            return self._loader(views, self.args.eval_batch_size)
        if all(each.dataset is not views for each in self._kept_loaders):
            self._kept_loaders.append(self._loader(views, self.args.eval_batch_size, persistent=True))
        return next(each for each in self._kept_loaders if each.dataset is views)

    def get_test_dataloader(self, test_dataset: datasets.Dataset | EvaluationViews) -> DataLoader:
        """Returns a loader of evaluation views, also of a `datasets.Dataset`, with or without labels."""
        views = self._views.of_plain_rows(test_dataset, needs_labels=False)
        return self._loader(views, self.args.eval_batch_size)

    def _loader(
        self, views: Dataset, batch_size: int, sampler: ViewSampler | None = None, *, persistent: bool = False
    ) -> DataLoader:
        """Makes a loader whose workers ignore signals, and which does not draw from the global random state.

        A loader draws a seed when it starts its workers. With `dataloader_persistent_workers`, a resumed run starts
        them more often than an uninterrupted one, so later draws from the global state would differ.
        """
        args = self.args
        if not hasattr(self.accelerator.state, "distributed_type"):  # lost when other `TrainingArguments` are created
            self.create_accelerator_and_postprocess()
        loader = DataLoader(
            views,
            batch_size=batch_size,
            sampler=sampler,
            collate_fn=self.data_collator,
            num_workers=args.dataloader_num_workers,
            pin_memory=args.dataloader_pin_memory,
            persistent_workers=persistent,
            prefetch_factor=args.dataloader_prefetch_factor,
            multiprocessing_context=args.dataloader_multiprocessing_context,
            in_order=args.dataloader_in_order,
            worker_init_fn=leaves_signals_to_the_main_process(),
            generator=torch.Generator().manual_seed(args.seed),
        )
        return self.accelerator.prepare(loader)

    def release_workers(self) -> None:
        """Ends persistent data workers after the last use; the garbage collector would wait 5 seconds for each."""
        self._kept_loaders.clear()
        self.callback_handler.train_dataloader = self.callback_handler.eval_dataloader = None
        self.accelerator.free_memory()

    # ---- evaluation ----

    def evaluate(
        self,
        eval_dataset: EvaluationRows | str | None = None,
        ignore_keys: list[str] | None = None,
        metric_key_prefix: str = "eval",
    ) -> dict[str, float]:
        """Like `Trainer.evaluate`, with the metrics of the averaged weights; speeds are those of the student alone."""
        self._take_student()
        self._take_eval_rows()
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if not are_parts(dataset):  # `Trainer` calls this method for each part
            self._ema_metrics = evaluate_averages(self, self.ema, eval_dataset, metric_key_prefix, ignore_keys)
        try:
            return super().evaluate(eval_dataset, ignore_keys, metric_key_prefix)
        finally:
            self._ema_metrics = {}

    def create_model_card(self, **facts: Any) -> None:
        """Like `PushingTrainer.create_model_card`, and also takes a model that was assigned to `trainer.model`."""
        self._take_student()
        super().create_model_card(**facts)

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        """Like `Trainer.evaluation_loop`, with the metrics of the averaged weights that `evaluate` has measured."""
        self.compute_metrics.reset()  # counts of an evaluation that failed
        advice = partial(evaluation_advice, self.args.per_device_eval_batch_size)
        with named_crashes(), explained_out_of_memory(advice):
            output = super().evaluation_loop(*args, **kwargs)
        output.metrics.update(self._ema_metrics)
        return output

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Tensor],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> tuple[Any, Any, Any]:
        """Returns the evaluation loss, the logits of all heads, and the labels.

        Overrides `Trainer.prediction_step`, which returns only the fused logits, or uses the training loss.
        """
        inputs = send_to_device(inputs, self.args.device)
        if self.is_deepspeed_enabled:  # the weights may be in half precision, without autocast
            inputs["pixel_values"] = inputs["pixel_values"].to(self.model.dtype)
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(pixel_values=inputs["pixel_values"])
        heads = head_logits(outputs, self.args.fusion)
        labels = inputs.get("labels")
        loss = None if labels is None else negative_log_likelihood(heads[0], labels).mean()
        if prediction_loss_only:
            return loss, None, None
        return loss, heads if len(heads) > 1 else heads[0], labels
