"""Checks the arguments of `DistillationTrainer`; its options are checked in arguments.py."""

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from .arguments import DistillationArguments


def check_trainer_arguments(
    model: object,
    args: object,
    model_init: object,
    optimizers: tuple[Optimizer | None, LRScheduler | None],
    optimizer_cls_and_kwargs: object,
    compute_loss_func: object,
    data_collator: object,
) -> None:
    """Refuses arguments that are missing, contradict each other, or would have no effect.

    Raises:
        TypeError: `args` has the wrong type.
        ValueError: names the argument and what to do instead.
    """
    if not isinstance(args, DistillationArguments):
        raise TypeError(f"`args` is a {type(args).__name__}, but must be DistillationArguments")
    if (model is None) == (model_init is None):
        given = "neither `model` nor `model_init` is" if model is None else "both `model` and `model_init` are"
        raise ValueError(f"{given} given; pass exactly one of them")
    if compute_loss_func is not None:
        raise ValueError(
            "`compute_loss_func` is given, but the objective is set by `distillation_type` and `label_loss`; for "
            "another objective, write a subclass with its own `compute_loss(self, model, inputs, ...)`"
        )
    if data_collator is not None:
        raise ValueError(
            "`data_collator` is given, but this trainer builds its own batches of views; leave it out, and set "
            "the views with `random_augment`, `mixup_alpha`, `cutmix_alpha` and the other options"
        )
    optimizer, schedule = optimizers
    if model_init is not None and (optimizer, schedule) != (None, None):
        raise ValueError(
            "`optimizers` are given, but `model_init` creates a new model for each training; pass "
            "`optimizer_cls_and_kwargs` instead"
        )
    own = {"optimizers": optimizer, "optimizer_cls_and_kwargs": optimizer_cls_and_kwargs}
    own = {name: value for name, value in own.items() if value is not None}
    if len(own) == 2:
        raise ValueError("`optimizers` has an optimizer, but `optimizer_cls_and_kwargs` is also given; pass only one")
    unread = {"layer_decay": 1.0, "timm_optimizer": None, "optim": args.default_optim}
    for name in own:
        for option, default in unread.items():
            if getattr(args, option) != default:
                raise ValueError(
                    f"`{name}` has its own optimizer, so `{option}`, which is {getattr(args, option)}, would have no "
                    f"effect; leave out `{name}` or `{option}`"
                )
