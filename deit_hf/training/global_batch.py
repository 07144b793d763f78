"""The learning rate for a global batch, and checks of the batch size (table 9)."""

import logging

from transformers import PreTrainedConfig

from ..model.configuration_deit import DeiTConfig

logger = logging.getLogger(__name__)

BATCH_SIZE_OF_BASE_LEARNING_RATE = 512  # table 9: learning rate 0.0005 x batch size / 512
PAPER_GLOBAL_BATCH_SIZE = 1024  # table 9
BASE_WIDTH = 768  # table 1


def scaled_learning_rate(base_learning_rate: float, global_batch_size: int) -> float:
    """The learning rate for a global batch (over all processes and accumulation steps); official main.py:349-351."""
    return base_learning_rate * global_batch_size / BATCH_SIZE_OF_BASE_LEARNING_RATE


def check_pairs(local_batch_size: int, *, mixes: bool) -> None:
    """Refuses a batch size with which one image would have no partner for mixing.

    Raises:
        ValueError: `local_batch_size` is odd, and images are mixed.
    """
    if mixes and local_batch_size % 2:
        raise ValueError(
            f"`per_device_train_batch_size` is {local_batch_size}, but must be even, because mixup and cutmix "
            "mix images in pairs; change it, or set `mixup_alpha` and `cutmix_alpha` to 0"
        )


def warn_of_global_batch(config: PreTrainedConfig, *, global_batch_size: int, num_accumulation_steps: int) -> None:
    """Warns if a base-size DeiT is trained from scratch with a global batch other than the paper's 1024.

    Source: users of the official code report 78.8 % top-1 at a batch of 512 instead of 81.8 % for the base size,
    while tiny and small came out as published.

    Args:
        config: of the student; no warning if it was loaded with weights, because that is a fine-tuning.
        global_batch_size: views of one optimizer step.
        num_accumulation_steps: forward passes of one optimizer step.
    """
    is_base = isinstance(config, DeiTConfig) and config.hidden_size == BASE_WIDTH
    if not is_base or config.name_or_path or global_batch_size == PAPER_GLOBAL_BATCH_SIZE:
        return
    in_one_pass = global_batch_size // num_accumulation_steps
    advice = f"set `gradient_accumulation_steps` to {PAPER_GLOBAL_BATCH_SIZE // in_one_pass}"
    if PAPER_GLOBAL_BATCH_SIZE % in_one_pass:
        advice = "choose `per_device_train_batch_size` x processes x `gradient_accumulation_steps` to equal that"
    logger.warning(
        "the global batch is %d images, but the paper's results for the base size need %d, even if the learning "
        "rate is scaled; %s",
        *(global_batch_size, PAPER_GLOBAL_BATCH_SIZE, advice),
    )
