"""Arguments of a trainer that do not fit each other, or that it refuses; options are in refused_arguments.py."""

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
    """Refuses arguments of a trainer that are missing, contradict each other, or would have no effect.

    Raises:
        TypeError: `args` are of another kind.
        ValueError: names the argument, and what to do instead.
    """
    if not isinstance(args, DistillationArguments):
        raise TypeError(f"`args` is a {type(args).__name__}, but must be DistillationArguments")
    if (model is None) == (model_init is None):
        given = "neither `model` nor `model_init` is" if model is None else "both `model` and `model_init` are"
        raise ValueError(f"{given} given; give one of them")
    if compute_loss_func is not None:
        raise ValueError(
            "`compute_loss_func` is given, but the objective follows from `distillation_type` and `label_loss`; for "
            "another one make a subclass with its own `compute_loss(self, model, inputs, ...)`"
        )
    if data_collator is not None:
        raise ValueError(
            "`data_collator` is given, but batches are made of views; leave it out, and set the views with "
            "`random_augment`, `mixup_alpha`, `cutmix_alpha` and the other options"
        )
    optimizer, schedule = optimizers
    if model_init is not None and (optimizer, schedule) != (None, None):
        raise ValueError(
            "`optimizers` are given, but `model_init` makes a new model for each training; give "
            "`optimizer_cls_and_kwargs` instead"
        )
    own = {"optimizers": optimizer, "optimizer_cls_and_kwargs": optimizer_cls_and_kwargs}
    own = {name: value for name, value in own.items() if value is not None}
    if len(own) == 2:
        raise ValueError("`optimizers` has an optimizer, and `optimizer_cls_and_kwargs` is given; give only one")
    unread = {"layer_decay": 1.0, "timm_optimizer": None, "optim": args.default_optim}
    for name in own:
        for option, default in unread.items():
            if getattr(args, option) != default:
                raise ValueError(
                    f"`{name}` has an optimizer of its own, which `timm_optimizer` and other options cannot change "
                    f"(`{option}` is {getattr(args, option)}); leave out one of them"
                )
