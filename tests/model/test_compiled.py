"""An unwrapped model has normal weight names and the same logits, and is still compiled."""

import copy

import torch
from torch import nn

from deit_hf import DeiTForImageClassificationWithTeacher
from deit_hf.model.compiled import without_compiled_names


def compiled_by(calls: list[int]):
    def backend(graph, inputs):
        calls.append(len(inputs))
        return graph.forward

    return backend


def test_whole_model_loses_its_wrapper_and_stays_compiled(tiny_student, toy_images):
    calls: list[int] = []
    names, expected = set(tiny_student.state_dict()), tiny_student.eval()(toy_images).logits
    model = without_compiled_names(torch.compile(tiny_student, backend=compiled_by(calls)))
    assert model is tiny_student
    assert set(model.state_dict()) == names
    torch.testing.assert_close(model(toy_images).logits, expected, rtol=0, atol=1e-6)
    assert calls
    calls.clear()
    copy.deepcopy(model)(toy_images[:3])
    assert not calls  # a copy, such as the averaged weights, would run the original's code


class Part(nn.Module):
    """A module of a user: torch 2.11 does not compile its own ones by themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x).relu()


def test_parts_that_were_compiled_lose_their_wrappers():
    calls: list[int] = []
    model = nn.Sequential(nn.Linear(3, 3), torch.compile(Part(), backend=compiled_by(calls)))
    model = without_compiled_names(model)
    assert set(model.state_dict()) == {"0.weight", "0.bias", "1.linear.weight", "1.linear.bias"}
    model(torch.zeros(2, 3))
    assert calls


def test_model_that_is_not_compiled_stays_as_it_is(tiny_student):
    assert without_compiled_names(tiny_student) is tiny_student
    assert tiny_student._compiled_call_impl is None


def test_whole_model_is_one_graph_in_each_mode(tiny_config, toy_images):
    """`fullgraph` fails at a graph break; a second call of the backend in the same mode would be a recompilation."""
    tiny_config.drop_path_rate, tiny_config.num_hidden_layers = 0.5, 2
    student = DeiTForImageClassificationWithTeacher(tiny_config)
    labels, calls = torch.arange(4), list[int]()
    compiled = torch.compile(student, fullgraph=True, backend=compiled_by(calls))
    for step in range(3):
        losses = []
        for model in (compiled, student):
            torch.manual_seed(step)  # both drop the same paths
            losses.append(model.train()(toy_images + step, labels=labels).loss)
        torch.testing.assert_close(*losses, rtol=0, atol=1e-6)
        losses[0].backward()
    assert len(calls) == 1
    with torch.no_grad():
        for step in range(3):
            logits = [model.eval()(toy_images + step).logits for model in (compiled, student)]
            torch.testing.assert_close(*logits, rtol=0, atol=1e-6)
    assert len(calls) == 2
