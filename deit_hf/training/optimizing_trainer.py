"""A Trainer with the recipe's optimizer, learning rates and averaged weights (section 5 and table 9 of the paper)."""

import logging
from functools import partial
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from transformers.integrations import is_deepspeed_zero3_enabled

from ..reliability.step_outcome import StepOutcome
from .arguments import DistillationArguments
from .derived_options import unmark_rates
from .ema import averages_for, check_not_sharded
from .optimizer import check_layers, create_own_optimizer, decay_parameter_names, group_options, restore_group_options
from .schedule import create_schedule, num_warmup_steps, restore_peak_rates
from .view_trainer import ViewTrainer

logger = logging.getLogger(__name__)


class OptimizingTrainer(ViewTrainer):
    """A `ViewTrainer` that creates optimizer and schedule from the options, and keeps averaged weights.

    An optimizer or schedule that was given to the trainer is used instead.

    Attributes:
        step_outcome: whether the optimizer step in progress counts, and which steps were skipped.
        ema: the averaged weights; None without `ema_decay`.
    """

    def __init__(self, *args: Any, **options: Any):
        """Takes the arguments of `DistillationTrainer`, except those of the objective."""
        self.step_outcome = StepOutcome()
        self._own_optimizer: Optimizer | None = None  # created by this trainer, not given
        self._own_schedule: LRScheduler | None = None
        self._own_options: tuple[list[dict[str, Any]], list[float]] = [], []  # of optimizer and schedule
        super().__init__(*args, **options)
        self._take_averages()

    @property
    def has_given_optimizer(self) -> bool:
        """Whether the optimizer or its class was given to the trainer or assigned later."""
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)  # inside Accelerate's
        is_given = optimizer is not None and optimizer is not self._own_optimizer
        return is_given or self.optimizer_cls_and_kwargs is not None

    @property
    def has_given_schedule(self) -> bool:
        """Whether the schedule was given to the trainer or assigned later."""
        return self.lr_scheduler is not None and self.lr_scheduler is not self._own_schedule

    @property
    def given_optimizer_name(self) -> str | None:
        """Class names of a given optimizer and schedule, such as `SGD, StepLR`; None if neither was given."""
        given: list[type] = []
        if self.optimizer_cls_and_kwargs is not None:
            given.append(self.optimizer_cls_and_kwargs[0])
        elif self.has_given_optimizer:
            given.append(type(getattr(self.optimizer, "optimizer", self.optimizer)))  # inside Accelerate's
        if self.has_given_schedule:
            given.append(type(self.lr_scheduler))
        return ", ".join(each.__name__ for each in given) or None

    def take_options(self, *, of_trial: bool = False) -> bool:
        """Also drops the optimizer and schedule of an earlier training, and applies new options to the averages."""
        changed = super().take_options(of_trial=of_trial)
        if not self.has_given_optimizer:
            self.optimizer = None
        if not self.has_given_schedule:
            self.lr_scheduler = None
        if changed:
            self._take_averages()
        return changed

    def _take_averages(self) -> None:
        args, before = self.args, self.ema
        check_layers(self.model, args)
        check_not_sharded(args.ema_decay, is_sharded=self.is_fsdp_enabled or is_deepspeed_zero3_enabled())
        self.ema = averages_for(before, args.ema_decay, warmup=args.ema_warmup, outcome=self.step_outcome)
        if self.ema is before:
            return
        if before is not None:
            self.remove_callback(before)
        if self.ema is not None:
            self.add_callback(self.ema)

    # ---- optimizer and schedule ----

    def create_optimizer(self, model: nn.Module | None = None) -> Optimizer:
        """Like `Trainer.create_optimizer`, and also supports layer-wise learning rates and timm's optimizers."""
        creates_it = self.optimizer is None
        if creates_it:
            student = self.model if model is None else model
            transformers_own = partial(self.get_optimizer_cls_and_kwargs, self.args, student)
            self.optimizer = create_own_optimizer(student, self.args, transformers_own)
        optimizer = super().create_optimizer(model)
        unmark_rates(optimizer, self.lr_scheduler)
        self._own_optimizer = optimizer if creates_it else self._own_optimizer
        return optimizer

    def get_decay_parameter_names(self, model: nn.Module) -> list[str]:
        """Like `Trainer.get_decay_parameter_names`, but without tokens and positions."""
        return decay_parameter_names(model)

    def create_scheduler(self, num_training_steps: int, optimizer: Optimizer | None = None) -> LRScheduler:
        """Creates the schedule of the options: by default the paper's warm-up and cosine (schedule.py)."""
        optimizer = optimizer or self.optimizer
        if self.lr_scheduler is None:
            steps: Any = {"num_steps": num_training_steps, "steps_in_epoch": self._steps_in_epoch()}
            self.lr_scheduler = self._own_schedule = create_schedule(optimizer, self.args, **steps)
        self._own_options = group_options(optimizer), list(getattr(self.lr_scheduler, "base_lrs", ()))
        return self.lr_scheduler

    def begin_training(self) -> None:
        """Also sets the options of optimizer and schedule again that `Trainer` has loaded from a checkpoint."""
        if self.resume_from is not None:
            options, peaks = self._own_options
            restore_group_options(self.optimizer, options, self.lr_scheduler)
            restore_peak_rates(self.lr_scheduler, peaks)
        super().begin_training()

    def num_warmup_steps(self, num_training_steps: int) -> int:
        """Returns the number of warm-up steps in a training of `num_training_steps`."""
        return num_warmup_steps(self.args, num_steps=num_training_steps, steps_in_epoch=self._steps_in_epoch())

    def _steps_in_epoch(self) -> int:
        if self.train_dataset is None:
            return 0
        sampler = self.make_view_sampler() if self.view_sampler is None else self.view_sampler
        return len(sampler) // sampler.step_size

    def get_total_train_batch_size(self, args: DistillationArguments) -> int:
        """Returns the images per optimizer step now; `Trainer` returns what they were when it was created."""
        return args.global_batch_size

    def hyperparameter_search(self, *args: Any, **options: Any) -> Any:
        """Like `Trainer.hyperparameter_search`, but leaves a new, untrained model in the trainer instead of none."""
        best = super().hyperparameter_search(*args, **options)
        if self.model is None:
            self.model = self.call_model_init()
            self._start_with_model()
            logger.info(
                "the trainer now has a new, untrained model and the options of the last trial; the trials of the "
                "search are in `output_dir`"
            )
        return best

    # ---- averaged weights ----

    def restore_running_state(self, state: dict[str, Any] | None) -> None:
        """Also makes the averages resume from the same checkpoint."""
        super().restore_running_state(state)
        if self.ema is not None:
            self.ema.resume_from = self.resume_from

    def load_best_model(self) -> None:
        """Also loads the averages of the best checkpoint."""
        super().load_best_model()
        if self.ema is not None and self.state.best_model_checkpoint is not None:
            self.ema.load(self.state.best_model_checkpoint)

    def save_model(self, output_dir: str | None = None, **options: Any) -> None:
        """Like `Trainer.save_model`, and also saves the averaged weights in `ema/`; never pushes to the Hub."""
        self._take_student()
        super().save_model(output_dir, **options)
        if self.ema is not None and self.args.should_save:
            self.ema.save(output_dir or self.args.output_dir, self.processing_class)
