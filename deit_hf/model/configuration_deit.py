"""DeiT's hyper-parameters: the configuration; variants.py has the paper's table of published variants.

Files are written in the format of transformers. With a distillation token `model_type` is `deit`; without one it is
`vit`, the type that transformers uses for the paper's plain DeiT. Training options are in arguments.py.
"""

import logging
import math
from collections.abc import Iterable
from typing import Any

import transformers
from huggingface_hub.errors import StrictDataclassFieldValidationError
from transformers.activations import ACT2FN

from .variants import VARIANTS

logger = logging.getLogger(__name__)

NATIVE_LAYER_NORM_EPS = transformers.DeiTConfig.layer_norm_eps


def to_pair(size: int | Iterable[int]) -> tuple[int, int]:
    """Converts one number or a pair to (height, width)."""
    if isinstance(size, int):
        return size, size
    height, width = size
    return height, width


class DeiTConfig(transformers.DeiTConfig):
    """Configuration of every DeiT class here; takes all arguments of `transformers.DeiTConfig` with the same meaning.

    Differs from it in:
    - `drop_path_rate`: new; stochastic depth, rising linearly from 0 at the first layer to this rate at the last.
      0.1 as in arXiv:2012.12877 table 9.
    - `use_distillation_token`: new; `False` is the paper's plain DeiT, saved as a `vit`.
    - `layer_norm_eps`: 1e-6 as in the official code (models.py:66), not 1e-12. A loaded file keeps its own value.
    - `problem_type`: always `single_label_classification`. With another type a pipeline would apply a sigmoid.

    Attributes:
        image_size: pixels, one number or (height, width).
        patch_size: pixels, one number or (height, width).
        drop_path_rate: in [0, 1).

    Raises:
        TypeError: from the constructor, if a field has a value of the wrong type.
        ValueError: from the constructor, if sizes do not fit each other or a value is out of range.
    """

    layer_norm_eps: float = 1e-6
    drop_path_rate: float | int = 0.1
    use_distillation_token: bool = True

    keys_to_ignore_at_inference = ["cls_logits", "distillation_logits", "hidden_states", "attentions"]

    def __post_init__(self, **kwargs: Any) -> None:
        if kwargs.pop("model_type", self.model_type) == "vit":
            self.use_distillation_token = False
        num_labels = kwargs.get("num_labels", 0)  # transformers turns it into class names
        if not isinstance(num_labels, int | None) or (num_labels or 0) < 0:
            raise ValueError(f"`num_labels` is {num_labels!r}, but must be a whole number, at least 2 (0: no head)")
        super().__post_init__(**kwargs)
        if self.problem_type is None:  # type: ignore[has-type]  # declared in transformers, which mypy skips
            self.problem_type = "single_label_classification"
        self._check()

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets a field; raises TypeError, not huggingface_hub's own error, for a value of the wrong type."""
        try:
            super().__setattr__(name, value)
        except StrictDataclassFieldValidationError as error:
            raise TypeError(f"`{name}` is {value!r}, which is not valid: {error.__cause__ or error}") from error

    def _check(self) -> None:
        self._check_ranges()
        if self.problem_type != "single_label_classification":
            raise ValueError(
                f"`problem_type` is {self.problem_type!r}, but only 'single_label_classification' is supported; "
                "leave it out (mixed and smoothed targets need no other problem type)"
            )
        if self.num_labels == 1:
            raise ValueError("`num_labels` is 1, but must be at least 2 (0: no head)")
        if self.hidden_size % self.num_attention_heads:
            raise ValueError(
                f"`hidden_size` is {self.hidden_size}, but must be a multiple of `num_attention_heads` "
                f"{self.num_attention_heads}; change one of them (the paper uses 64 dimensions per head)"
            )
        if min(self.grid_size) < 1:
            raise ValueError(
                f"`image_size` {self.image_size} is smaller than `patch_size` {self.patch_size}; "
                "an image must hold at least one patch"
            )

    def _check_ranges(self) -> None:
        rates = ("drop_path_rate", "hidden_dropout_prob", "attention_probs_dropout_prob")
        for name in rates:
            rate = getattr(self, name)
            if not isinstance(rate, int | float) or not 0 <= rate < 1:
                raise ValueError(f"`{name}` is {rate!r}, but must be in [0, 1)")
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_channels"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` is {getattr(self, name)}, but must be 1 or more")
        if self.num_hidden_layers < 0:
            raise ValueError(f"`num_hidden_layers` is {self.num_hidden_layers}, but must be 0 or more")
        if min(to_pair(self.patch_size)) < 1:
            raise ValueError(f"`patch_size` is {self.patch_size}, but must be 1 pixel or more")
        if not 0 <= self.layer_norm_eps < math.inf:
            raise ValueError(f"`layer_norm_eps` is {self.layer_norm_eps}, but must be 0 or more")
        if not 0 < self.initializer_range < math.inf:
            raise ValueError(f"`initializer_range` is {self.initializer_range}, but must be greater than 0")
        if isinstance(self.hidden_act, str) and self.hidden_act not in ACT2FN:
            raise ValueError(f"`hidden_act` is {self.hidden_act!r}, but must be one of {', '.join(ACT2FN)}")

    @property
    def num_prefix_tokens(self) -> int:
        """Number of tokens before the patches: the class token and, if present, the distillation token."""
        return 2 if self.use_distillation_token else 1

    @property
    def grid_size(self) -> tuple[int, int]:
        """Number of patches as (rows, columns); pixels beyond the last whole patch are ignored."""
        (height, width), (patch_height, patch_width) = to_pair(self.image_size), to_pair(self.patch_size)
        return height // patch_height, width // patch_width

    @classmethod
    def from_variant(cls, name: str, **overrides: Any) -> "DeiTConfig":
        """Returns the configuration of a published model, by its official name.

        Source: arXiv:2012.12877 table 1; names from facebookresearch/deit models.py and timm.

        Args:
            name: one of the eight names in `VARIANTS`, such as `deit_tiny_distilled_patch16_224`.
            overrides: any argument of `DeiTConfig`, such as `num_labels=10` or `image_size=32`. `num_labels` is 1000
                unless given, directly or by `id2label`.

        Raises:
            ValueError: the name is not one of the eight.
        """
        if name not in VARIANTS:
            raise ValueError(f"`{name}` is not a published DeiT; choose one of: {', '.join(VARIANTS)}")
        if "id2label" not in overrides:
            overrides = {"num_labels": 1000, **overrides}
        return cls(**{**VARIANTS[name], **overrides})

    @classmethod
    def get_config_dict(cls, *args: Any, **kwargs: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Reads a stored configuration; one of type `vit` becomes a `deit` without distillation token."""
        config_dict, unused = super().get_config_dict(*args, **kwargs)
        if config_dict.get("model_type") == "vit":
            config_dict = {**config_dict, "model_type": "deit", "use_distillation_token": False}
        return config_dict, unused

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> "DeiTConfig":
        """Builds a configuration from stored values; a missing `layer_norm_eps` gets the default of transformers.

        Raises:
            ValueError: `model_type` is neither `deit` nor `vit`, or a value is invalid.
        """
        model_type = config_dict.get("model_type", "deit")
        if model_type not in ("deit", "vit"):
            raise ValueError(
                f"the configuration is of type `{model_type}`, but DeiT classes read only `deit` and `vit`; "
                "load it with AutoModelForImageClassification (it can still be a teacher or a student)"
            )
        config_dict = {"layer_norm_eps": NATIVE_LAYER_NORM_EPS, **config_dict}
        if config_dict.get("problem_type") not in (None, "single_label_classification"):
            logger.warning(
                "the checkpoint has `problem_type` %r; 'single_label_classification' is used instead "
                "(transformers stores another type when a model is called with soft labels)",
                config_dict.pop("problem_type"),
            )
        loaded = super().from_dict(config_dict, **kwargs)
        (loaded[0] if isinstance(loaded, tuple) else loaded)._check()
        return loaded

    def to_dict(self) -> dict[str, Any]:
        """Returns the values to store; without a distillation token, with the type and class names of a ViT."""
        output = super().to_dict()
        if not self.use_distillation_token:
            output["model_type"] = "vit"
            if self.architectures is not None:
                output["architectures"] = [name.replace("DeiT", "ViT", 1) for name in self.architectures]
        return output
