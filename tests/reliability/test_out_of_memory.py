"""Out of memory: one line names the options to lower, and values that keep the global batch."""

import pytest
import torch
from support.trainers import make_args

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationTrainer
from deit_hf.reliability.out_of_memory import (
    evaluation_advice,
    explained_out_of_memory,
    smaller_batch,
    training_advice,
)

CUDA_ERROR = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
CPU_ERROR = RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried")


@pytest.mark.parametrize(
    ("in_one_step", "below", "even", "size"),
    [(32, 32, True, 16), (12, 6, True, 2), (12, 6, False, 3), (10, 10, False, 5), (7, 7, True, None)],
)
def test_smaller_batch_divides_a_step_and_is_even_if_pairs_are_mixed(in_one_step, below, even, size):
    assert smaller_batch(in_one_step, below=below, even=even) == size


@pytest.mark.parametrize(
    ("sizes", "even", "advice"),
    [
        ((64, 1), True, "use 32 and 2, which keep the global batch of 128"),
        ((6, 2), True, "use 2 and 6, which keep the global batch of 24"),  # 3 images are not pairs
        ((6, 2), False, "use 3 and 4, which keep the global batch of 24"),
        ((2, 3), True, "which cannot be lower; use a smaller model or image"),
    ],
)
def test_advice_for_training_names_both_sizes_and_a_pair_of_the_same_product(sizes, even, advice):
    found = training_advice(*sizes, num_processes=2, even=even)
    named = f"`per_device_train_batch_size` is {sizes[0]} and `gradient_accumulation_steps` {sizes[1]}"
    assert found.startswith(named)
    assert advice in found


@pytest.mark.parametrize(("size", "advice"), [(64, "is 64; use 32"), (1, "is 1; use a smaller model or image")])
def test_advice_for_evaluation_names_its_own_size(size, advice):
    assert evaluation_advice(size) == f"`per_device_eval_batch_size` (`batch_size` of the evaluation command) {advice}"


@pytest.mark.parametrize("error", [CUDA_ERROR, CPU_ERROR])
def test_an_evaluation_inside_a_training_gets_its_own_advice_in_one_line(error):
    with (
        pytest.raises(torch.OutOfMemoryError, match=r"^out of memory: inner \(.*memory.*\)$") as raised,
        explained_out_of_memory(lambda: "outer"),
        explained_out_of_memory(lambda: "inner"),
    ):
        raise error
    assert raised.value.exit_code == 2


def test_other_errors_pass_through():
    with pytest.raises(RuntimeError, match="^shapes differ$"), explained_out_of_memory(lambda: "advice"):
        raise RuntimeError("shapes differ")


def test_training_and_evaluation_that_do_not_fit_name_their_options(tmp_path, tiny_config, toy_rows):
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    args = make_args(tmp_path, per_device_train_batch_size=8, per_device_eval_batch_size=6)
    trainer = DistillationTrainer(student, args, train_dataset=toy_rows, eval_dataset=toy_rows)

    def out_of_memory(**inputs):
        raise CUDA_ERROR

    student.forward = out_of_memory
    with pytest.raises(torch.OutOfMemoryError, match="`per_device_train_batch_size` is 8 and .*; use 4 and 2"):
        trainer.train()
    with pytest.raises(torch.OutOfMemoryError, match="`per_device_eval_batch_size` .* is 6; use 3"):
        trainer.evaluate()
