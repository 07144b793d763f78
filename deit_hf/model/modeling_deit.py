"""DeiT (arXiv:2012.12877 sec. 3-4): patch, class and distillation tokens, the encoder, and its linear heads.

Losses with a teacher are in losses.py; stochastic depth is torchvision's. Sub-modules have the same names as in the
checkpoints on the Hub, so nothing is renamed when a model is saved, loaded or resumed.

Shapes: B batch, C classes, D width, H heads, P prefix tokens (class, distillation), N patches, T = P + N tokens.
"""

import copy
import logging
import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_outputs import ImageClassifierOutput
from transformers.utils import ModelOutput

from .configuration_deit import DeiTConfig
from .distillation_token import NEEDS_TOKEN, drops_token, fresh_names, loading_info, student_name, without_token
from .image_processing_deit import save_processor_beside, stored_settings, warn_of_known_faults
from .layers import DeiTEmbeddings, DeiTEncoder, DeiTPooler, at_least_float32, resize_position_table
from .safe_loading import check_all_layers_loaded, check_sizes, named_errors

logger = logging.getLogger(__name__)


@dataclass
class DeiTModelOutput(ModelOutput):
    """Features of an image.

    Attributes:
        last_hidden_state: (B, T, D) after the last norm: class token, distillation token if any, patches.
        pooler_output: (B, `pooler_output_size`), transformers' pooler on the class token; None without a pooler.
        hidden_states: tuple of `num_hidden_layers` + 1 tensors (B, T, D), before the last norm.
        attentions: tuple of `num_hidden_layers` tensors (B, H, T, T), rows sum to 1.
        cls_features: (B, D), the class token of `last_hidden_state`; the input of the class head.
        distillation_features: (B, D), the distillation token; None without one.
    """

    last_hidden_state: Tensor | None = None
    pooler_output: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    cls_features: Tensor | None = None
    distillation_features: Tensor | None = None


@dataclass
class DeiTForImageClassificationWithTeacherOutput(ModelOutput):
    """Logits of both heads, and their loss.

    Attributes:
        loss: scalar, the mean of both heads' cross-entropy; None without `labels`.
        logits: (B, C), the mean of both heads' logits (as official models.py:59).
        cls_logits: (B, C), from the class head.
        distillation_logits: (B, C), from the distillation head.
        hidden_states: as in `DeiTModelOutput`.
        attentions: as in `DeiTModelOutput`.
    """

    loss: Tensor | None = None
    logits: Tensor | None = None
    cls_logits: Tensor | None = None
    distillation_logits: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None


class DeiTPreTrainedModel(PreTrainedModel):
    """Base class of all DeiT classes: initialisation, names on disk, loading at another image size.

    Differs from `transformers.models.deit.DeiTPreTrainedModel` in:
    - tokens and positions are initialised from a truncated normal distribution, none with zeros;
    - module names equal the names on disk;
    - without a distillation token the base model is `vit`, as on the Hub;
    - `from_pretrained(..., image_size=)` resizes the position table.
    """

    config: DeiTConfig
    config_class = DeiTConfig
    base_model_prefix = "deit"
    main_input_name = "pixel_values"
    input_modalities = ["image"]
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = False  # the loss is a batch mean, so `Trainer` must divide it by the accumulation steps
    _no_split_modules = ["DeiTEmbeddings", "DeiTLayer"]
    _supports_sdpa = True

    def __init__(self, config: DeiTConfig, *args: Any, **kwargs: Any):
        if not isinstance(config, DeiTConfig):
            raise TypeError(
                f"`config` is a `{type(config).__module__}.{type(config).__name__}`, but must be a "
                "`deit_hf.DeiTConfig`; convert it with `DeiTConfig.from_dict(config.to_dict())`"
            )
        super().__init__(config, *args, **kwargs)
        if not config.use_distillation_token:
            self.base_model_prefix = "vit"

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        """Truncated normal for linear layers, tokens and positions (official models.py:23-30 and timm 0.3.2).

        The patch projection keeps torch's default, as in the official code.
        """
        std = self.config.initializer_range
        if isinstance(module, nn.Linear):
            init.trunc_normal_(module.weight, std=std)
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, nn.Conv2d):
            bound = 1 / math.sqrt(module.weight[0].numel())
            init.uniform_(module.weight, -bound, bound)
            if module.bias is not None:
                init.uniform_(module.bias, -bound, bound)
        elif isinstance(module, nn.LayerNorm):
            init.ones_(module.weight)
            init.zeros_(module.bias)
        elif isinstance(module, DeiTEmbeddings):
            init.trunc_normal_(module.cls_token, std=std)
            init.trunc_normal_(module.position_embeddings, std=std)
            if module.distillation_token is not None:
                init.trunc_normal_(module.distillation_token, std=std)

    def get_input_embeddings(self) -> nn.Module:
        """The patch projection."""
        return self.base_model.embeddings.patch_embeddings

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replaces the patch projection."""
        self.base_model.embeddings.patch_embeddings = value

    @torch.no_grad()
    def resize_position_embeddings(self, image_size: int | tuple[int, int]) -> None:
        """Changes the image size that the model expects, in pixels; the position table is resized in place.

        Raises:
            ValueError: the image is smaller than one patch.
        """
        old_grid_size, old_image_size = self.config.grid_size, self.config.image_size
        self.config.image_size = image_size
        if min(self.config.grid_size) < 1:
            self.config.image_size = old_image_size
            raise ValueError(f"`image_size` {image_size} is smaller than `patch_size` {self.config.patch_size}")
        embeddings = self.base_model.embeddings
        assert isinstance(embeddings, DeiTEmbeddings)
        embeddings.position_embeddings.data = resize_position_table(
            embeddings.position_embeddings.data,
            num_prefix_tokens=self.config.num_prefix_tokens,
            grid_size=old_grid_size,
            new_grid_size=self.config.grid_size,
        )

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """Like transformers' `from_pretrained`, for `deit` and `vit` checkpoints, at any image size.

        Source of the resizing: arXiv:2012.12877 sec. 6.

        Args:
            pretrained_model_name_or_path: Hub id or directory.
            model_args: passed to the constructor.
            config: as in transformers; its own `DeiTConfig` and `ViTConfig` are accepted, too. Its `image_size`
                overrides the stored one.
            kwargs: as in transformers. Fields of `DeiTConfig` override the stored ones. `image_size=384` resizes the
                position table, and `save_pretrained` then stores the resized one. `use_distillation_token=False`
                drops the distillation token of distilled weights, with its position and its head.

        Returns:
            The model in eval mode; with `output_loading_info=True`, the model and the loading info.

        Raises:
            OSError: the source does not exist, or the Hub was not reached.
            ValueError: a file is damaged or could run code, or weights and configuration do not fit each other.
        """
        source, config = pretrained_model_name_or_path, _own_config(config)
        if source is not None and drops_token(config, kwargs, source, partial(_stored_config, source, kwargs)):
            return _load_without_token(cls, source, *model_args, config=config, **kwargs)
        image_size = kwargs.pop("image_size", None)
        with_info = kwargs.pop("output_loading_info", False)
        mismatches_allowed = kwargs.pop("ignore_mismatched_sizes", False)
        layers_chosen = config is not None or "num_hidden_layers" in kwargs
        if isinstance(config, DeiTConfig) and source is not None:
            stored = _stored_config(source, kwargs)
            image_size = config.image_size if image_size is None else image_size
            config = copy.deepcopy(config)
            config.image_size = stored.image_size
        kwargs |= {"output_loading_info": True, "ignore_mismatched_sizes": True}  # mismatches are refused below
        with named_errors(source):
            model, info = super().from_pretrained(source, *model_args, config=config, **kwargs)
        if not mismatches_allowed:
            check_sizes(source, info)
        if not layers_chosen:
            check_all_layers_loaded(source, info)
        if source is not None:
            warn_of_known_faults(source, stored_settings(source, **_where(kwargs)), model.config.image_size)
        if image_size is not None:
            model.resize_position_embeddings(image_size)
        return (model, info) if with_info else model

    def save_pretrained(self, save_directory: Any, is_main_process: bool = True, **kwargs: Any) -> None:
        """Like transformers' `save_pretrained`, and also saves the paper's image processor if the directory has none.

        A pipeline needs one, and the default one of transformers does not prepare images as DeiT expects them.
        """
        super().save_pretrained(save_directory, is_main_process=is_main_process, **kwargs)
        if is_main_process:
            save_processor_beside(save_directory, self.config)


def _own_config(config: Any) -> Any:
    """Converts the `config` argument of `from_pretrained` to our `DeiTConfig` if it is one of transformers."""
    if isinstance(config, DeiTConfig) or not isinstance(config, PreTrainedConfig):
        return config
    return DeiTConfig.from_dict(config.to_dict(), attn_implementation=config._attn_implementation)


def _stored_config(source: Any, kwargs: dict[str, Any]) -> DeiTConfig:
    """Reads the configuration stored in a checkpoint, given the arguments of `from_pretrained`."""
    with named_errors(source):
        return DeiTConfig.from_pretrained(source, **_where(kwargs))


def _where(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Selects the arguments of `from_pretrained` that locate the files."""
    names = ("cache_dir", "force_download", "local_files_only", "token", "revision", "subfolder")
    return {name: kwargs[name] for name in names if name in kwargs}


def _load_without_token(cls: Any, source: Any, *model_args: Any, config: Any, **kwargs: Any) -> Any:
    """Loads distilled weights as a `cls` without distillation token; the class head is kept."""
    loaded_class: Any = cls
    one_head = "DeiTForImageClassification" in (_stored_config(source, kwargs).architectures or ())
    if issubclass(cls, DeiTForImageClassification) and not one_head:
        loaded_class = DeiTForImageClassificationWithTeacher
    with_info = kwargs.pop("output_loading_info", False)
    kwargs |= {"use_distillation_token": True, "output_loading_info": True}
    if config is not None:  # with a `config`, transformers would pass the keyword to the constructor
        config, _ = copy.deepcopy(config), kwargs.pop("use_distillation_token")
        config.use_distillation_token = True
    distilled, info = loaded_class.from_pretrained(source, *model_args, config=config, **kwargs)
    has_pooler = isinstance(distilled, DeiTModel) and distilled.pooler is not None
    model = without_token(distilled, partial(cls, add_pooling_layer=has_pooler) if cls is DeiTModel else cls, source)
    return (model, loading_info(info, distilled)) if with_info else model


class DeiTModel(DeiTPreTrainedModel):
    """DeiT without a head: returns features.

    Differs from `transformers.DeiTModel` in: stochastic depth in training; the output names the features of each
    prefix token; a configuration without distillation token is a ViT; no `bool_masked_pos`.
    """

    def __init__(self, config: DeiTConfig, add_pooling_layer: bool = True):
        super().__init__(config)
        self.embeddings = DeiTEmbeddings(config)
        self.encoder = DeiTEncoder(config)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.pooler = DeiTPooler(config) if add_pooling_layer else None
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        prefix_tokens_only: bool = False,
    ) -> DeiTModelOutput | tuple[Tensor, ...]:
        """Computes the features of normalised images.

        Args:
            pixel_values: (B, channels, height, width), normalised as by the model's image processor.
            interpolate_pos_encoding: accept another image size by resizing the position table for this call.
            output_hidden_states: also return the hidden states; the config's value by default.
            output_attentions: also return the attentions, which disables the fused attention kernel.
            return_dict: `False` returns a tuple.
            prefix_tokens_only: compute the last layer for the prefix tokens only, because the heads do not read the
                patches. `last_hidden_state` is then (B, P, D), with the same values; at 224 pixels this saves 7 % of
                all operations. Ignored if hidden states or attentions are returned.

        Raises:
            ValueError: wrong number of channels, or another image size without `interpolate_pos_encoding`.
        """
        output_hidden_states = _or_default(output_hidden_states, self.config.output_hidden_states)
        output_attentions = _or_default(output_attentions, self.config.output_attentions)
        prefix_tokens_only = prefix_tokens_only and not (output_hidden_states or output_attentions)
        num_prefix_tokens = self.config.num_prefix_tokens

        pixel_values = pixel_values.to(self.embeddings.patch_embeddings.projection.weight.dtype)
        tokens = self.embeddings(pixel_values, interpolate_pos_encoding)  # (B, T, D)
        last_hidden_state, hidden_states, attentions = self.encoder(
            tokens, num_prefix_tokens if prefix_tokens_only else None, output_hidden_states, output_attentions
        )
        last_hidden_state = self.layernorm(last_hidden_state)  # (B, T, D) or (B, P, D)
        output = DeiTModelOutput(
            last_hidden_state=last_hidden_state,
            pooler_output=None if self.pooler is None else self.pooler(last_hidden_state),
            hidden_states=tuple(hidden_states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
            cls_features=last_hidden_state[:, 0],
            distillation_features=last_hidden_state[:, 1] if self.config.use_distillation_token else None,
        )
        return output if _or_default(return_dict, self.config.return_dict) else output.to_tuple()


def _or_default(value: bool | None, default: bool | None) -> bool:
    return bool(default if value is None else value)


def _linear_head(config: DeiTConfig) -> nn.Module:
    return nn.Linear(config.hidden_size, config.num_labels) if config.num_labels else nn.Identity()


def _cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy over the batch, computed in float32 or better.

    Args:
        logits: (B, C).
        labels: class indices (B,), or mixed and smoothed targets (B, C) whose rows sum to 1.

    Raises:
        ValueError: `labels` are floating-point, but their shape is not (B, C).
    """
    if not labels.is_floating_point():
        return F.cross_entropy(at_least_float32(logits), labels.view(-1))
    if labels.shape != logits.shape:
        raise ValueError(
            f"`labels` are {labels.dtype} of shape {tuple(labels.shape)}, but must be class indices (torch.int64) of "
            f"shape ({len(logits)},), or targets of shape {tuple(logits.shape)} whose rows sum to 1"
        )
    return F.cross_entropy(at_least_float32(logits), labels.to(at_least_float32(logits).dtype))


class DeiTForImageClassification(DeiTPreTrainedModel):
    """DeiT with one linear head, on the class token.

    Without a distillation token (`config.use_distillation_token=False`) this is the paper's plain DeiT, saved as
    transformers' `ViTForImageClassification`. With one it is transformers' `DeiTForImageClassification`, which has
    the token, but no head on it. For a model trained with a teacher, use `DeiTForImageClassificationWithTeacher`.
    """

    def __init__(self, config: DeiTConfig):
        super().__init__(config)
        setattr(self, self.base_model_prefix, DeiTModel(config, add_pooling_layer=False))
        self.classifier = _linear_head(config)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> ImageClassifierOutput | tuple[Tensor, ...]:
        """Logits (B, C) of normalised images, and the cross-entropy with `labels`: indices (B,) or targets (B, C).

        The other arguments and the errors are those of `DeiTModel.forward`.

        Raises:
            ValueError: `labels` are neither integers nor targets (B, C).
        """
        features = self.base_model(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            prefix_tokens_only=True,
        )
        logits = self.classifier(features.cls_features)
        output = ImageClassifierOutput(
            loss=None if labels is None else _cross_entropy(logits, labels),
            logits=logits,
            hidden_states=features.hidden_states,
            attentions=features.attentions,
        )
        return output if _or_default(return_dict, self.config.return_dict) else output.to_tuple()


class DeiTForImageClassificationWithTeacher(DeiTPreTrainedModel):
    """DeiT with a class head and a distillation head, each on its own token; it predicts with their mean (sec. 4).

    Differs from `transformers.DeiTForImageClassificationWithTeacher` in: it can be trained (it returns a loss for
    `labels`, and the logits of each head, which losses.py needs), and it also loads plain (`vit`) checkpoints.
    The official model returns a pair in training and the mean in evaluation; this one always returns both.
    """

    def __init__(self, config: DeiTConfig):
        super().__init__(config)
        if not config.use_distillation_token:
            raise ValueError(f"`use_distillation_token` is False, but {NEEDS_TOKEN}")
        self.deit = DeiTModel(config, add_pooling_layer=False)
        self.cls_classifier = _linear_head(config)
        self.distillation_classifier = _linear_head(config)
        self.post_init()

    def forward(
        self,
        pixel_values: Tensor,
        labels: Tensor | None = None,
        interpolate_pos_encoding: bool = False,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
    ) -> DeiTForImageClassificationWithTeacherOutput | tuple[Tensor, ...]:
        """Logits (B, C) of both heads and their mean, and, with `labels`, the mean of their cross-entropies.

        The other arguments and the errors are those of `DeiTModel.forward`.

        Raises:
            ValueError: `labels` are neither integers nor targets (B, C).
        """
        features = self.deit(
            pixel_values,
            interpolate_pos_encoding=interpolate_pos_encoding,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=True,
            prefix_tokens_only=True,
        )
        cls_logits = self.cls_classifier(features.cls_features)
        distillation_logits = self.distillation_classifier(features.distillation_features)
        loss = None
        if labels is not None:
            loss = (_cross_entropy(cls_logits, labels) + _cross_entropy(distillation_logits, labels)) / 2
        output = DeiTForImageClassificationWithTeacherOutput(
            loss=loss,
            logits=(cls_logits + distillation_logits) / 2,
            cls_logits=cls_logits,
            distillation_logits=distillation_logits,
            hidden_states=features.hidden_states,
            attentions=features.attentions,
        )
        return output if _or_default(return_dict, self.config.return_dict) else output.to_tuple()

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *model_args: Any, config: Any = None, **kwargs: Any
    ) -> Any:
        """Like `DeiTPreTrainedModel.from_pretrained`, and also from a plain (`vit`) checkpoint.

        Its distillation token, the position of that token and its head are then initialised at random.
        """
        source = pretrained_model_name_or_path
        if kwargs.get("use_distillation_token") is False:
            raise ValueError(f"`use_distillation_token` is False, but {NEEDS_TOKEN}")
        if source is None or _stored_config(source, kwargs).use_distillation_token:
            return super().from_pretrained(source, *model_args, config=config, **kwargs)
        config = copy.deepcopy(_own_config(config))
        if isinstance(config, DeiTConfig):
            config.use_distillation_token = False
        kwargs.pop("use_distillation_token", None)
        loaded = DeiTForImageClassification.from_pretrained(source, *model_args, config=config, **kwargs)
        plain, *info = loaded if isinstance(loaded, tuple) else (loaded,)
        logger.warning(
            "%s has no distillation token: the token, its position and its head are initialised at random", source
        )
        student = cls.from_plain(plain)
        if not info:
            return student
        info[0]["missing_keys"] = {student_name(name) for name in info[0]["missing_keys"]} | fresh_names(student)
        return student, *info

    @classmethod
    def from_plain(cls, plain: DeiTForImageClassification) -> "DeiTForImageClassificationWithTeacher":
        """Builds a distillation student with the weights of a plain DeiT; the missing ones are initialised at random.

        Args:
            plain: a DeiT without distillation token; it is not changed.
        """
        config = copy.deepcopy(plain.config)
        config.use_distillation_token = True
        student = cls(config)
        student.to(device=plain.device, dtype=plain.dtype)
        state = {student_name(name): tensor for name, tensor in plain.state_dict().items()}
        positions = "deit.embeddings.position_embeddings"
        fresh_position = student.state_dict()[positions][:, 1:2]
        state[positions] = torch.cat([state[positions][:, :1], fresh_position, state[positions][:, 1:]], dim=1)
        missing, unexpected = student.load_state_dict(state, strict=False)
        assert set(missing) == fresh_names(student), missing
        assert not unexpected, unexpected
        return student.eval()
