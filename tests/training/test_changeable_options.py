"""Each option is classified: whether it may change when a run is resumed."""

import dataclasses

import pytest

from deit_hf import DistillationArguments
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.reliability.run_identity import Difference
from deit_hf.training.changeable_options import (
    FIXED,
    FIXED_ONCE_GIVEN,
    GLOBAL_BATCH,
    HARMLESS,
    LENGTHS,
    NOT_RECORDED,
    RATES,
    kind_of,
)

# All other options: the weights depend on them, so a change is refused unless `allow_changes` names the option.
REFUSED = {
    # options of transformers
    *("lr_scheduler_type", "lr_scheduler_kwargs", "warmup_steps", "weight_decay", "adam_beta1", "adam_beta2"),
    *("adam_epsilon", "max_grad_norm", "label_smoothing_factor", "bf16", "fp16", "tf32", "torch_compile"),
    *("torch_compile_backend", "torch_compile_mode", "use_liger_kernel", "liger_kernel_config", "use_cache"),
    *("neftune_noise_alpha", "gradient_checkpointing", "gradient_checkpointing_kwargs", "activation_checkpointing"),
    *(
        "activation_checkpointing_kwargs",
        "average_tokens_across_devices",
        "enable_jit_checkpoint",
        "seed",
        "data_seed",
    ),
    *("ignore_data_skip", "restore_callback_states_from_checkpoint", "full_determinism", "accelerator_config"),
    *("parallelism_config", "fsdp", "fsdp_config", "deepspeed", "dataloader_drop_last", "dataloader_in_order"),
    *("remove_unused_columns", "label_names", "train_sampling_strategy", "length_column_name"),
    *("auto_find_batch_size",),
    *("ddp_broadcast_buffers", "ddp_static_graph"),
    # options of this package
    *("distillation_type", "distillation_weight", "distillation_temperature", "distillation_reduction", "label_loss"),
    *("mixup_alpha", "cutmix_alpha", "mixup_switch_prob", "label_smoothing", "random_augment", "color_jitter"),
    *("random_erase_prob", "crop_mode", "crop_min_scale", "horizontal_flip_prob", "repeated_augmentation"),
    *("learning_rate_stepping", "min_learning_rate", "warmup_learning_rate", "warmup_epochs", "student_mode"),
    *("class_weighting", "ema_decay", "ema_warmup", "num_train_samples", "num_streams", "shuffle_buffer_size"),
    # options of student, teacher and data
    *("teacher_cache_epochs", "teacher_compile", "teacher_channels_last"),
    *("variant", "image_size", "drop_path_rate", "config_overrides", "use_distillation_token", "streaming"),
}
TABLES = (NOT_RECORDED, HARMLESS, RATES, LENGTHS, FIXED - {"optimizer"}, FIXED_ONCE_GIVEN, REFUSED)
TABLES += (set(GLOBAL_BATCH) - {"num_processes"},)
BATCH = {"per_device_train_batch_size": 8, "num_processes": 1, "gradient_accumulation_steps": 2}


def test_every_option_is_decided_once():
    """Fails for a new option, of this package or of a new transformers: add it to one of the tables."""
    options = {
        option.name
        for group in (DistillationArguments, ModelArguments, DataArguments)
        for option in dataclasses.fields(group)
    }
    decided = [name for table in TABLES for name in table]
    assert options - set(decided) == set()
    assert len(decided) == len(set(decided))
    newer = {"activation_checkpointing", "activation_checkpointing_kwargs"}  # not in the oldest supported transformers
    assert set(decided) - options <= newer


@pytest.mark.parametrize(
    ("name", "stored", "given", "kind"),
    [
        ("save_steps", 4, 5, "harmless"),
        ("learning_rate", 1e-3, 1e-4, "logged"),
        ("num_train_epochs", 3, 5, "logged"),
        ("num_train_epochs", 5, 3, "refused"),
        ("max_steps", 10, 12, "logged"),
        ("max_steps", -1, 12, "refused"),  # it is unknown whether this is longer
        ("max_steps", 12, -1, "refused"),
        ("libraries", {"torch": "2.14"}, {"torch": "2.15"}, "logged"),
        ("seed", 1, 2, "refused"),
        ("classes", ["a", "c"], ["b", "c"], "refused"),
        ("classes", ["a", "b"], ["b", "a"], "fixed"),
        ("classes", ["a", "b", "c"], ["b", "c", "zz"], "fixed"),
        ("optim", "sgd", "adamw_torch", "fixed"),
        ("metric_for_best_model", "top1", "loss", "fixed"),  # the best value so far is one of the other metric
        ("metric_for_best_model", None, "loss", "harmless"),
        ("lr_scheduler_type", "cosine", "linear", "refused"),
        ("lr_scheduler_type", "cosine", "reduce_lr_on_plateau", "fixed"),
        ("an_option_of_tomorrow", 1, 2, "refused"),
    ],
)
def test_kind_of_a_difference(name: str, stored, given, kind: str):
    assert kind_of(Difference(name, stored, given), {**BATCH, name: stored}, {**BATCH, name: given}) == kind


def test_rate_of_a_schedule_that_finds_its_own_is_not_taken_from_the_options():
    options = {**BATCH, "lr_scheduler_type": "reduce_lr_on_plateau"}
    assert kind_of(Difference("learning_rate", 1e-3, 1e-4), options, options) == "fixed"


@pytest.mark.parametrize(("given", "kind"), [(BATCH | {"num_processes": 4}, "refused"), (BATCH, "harmless")])
def test_batch_of_a_process_may_change_where_the_global_batch_stays(given, kind: str):
    stored = {"per_device_train_batch_size": 4, "num_processes": 2, "gradient_accumulation_steps": 2}
    difference = Difference("per_device_train_batch_size", 4, 8)
    assert kind_of(difference, stored, given) == kind


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weight_decy", "`allow_changes` has 'weight_decy', .*; did you mean `weight_decay`"),
        ("overwrite_output_dir", "`allow_changes` has 'overwrite_output_dir', but can only name options"),
        ("optim", "`allow_changes` has `optim`, which cannot change within a run"),
    ],
)
def test_names_that_cannot_be_allowed_are_refused(tmp_path, name: str, message: str):
    with pytest.raises(ValueError, match=message):
        DistillationArguments(str(tmp_path), allow_changes=[name])


@pytest.mark.parametrize("name", ["data", "teacher", "seed", "variant", "train_dir", "num_processes"])
def test_names_of_all_options_and_facts_can_be_allowed(tmp_path, name: str):
    assert DistillationArguments(str(tmp_path), allow_changes=[name]).allow_changes == [name]
