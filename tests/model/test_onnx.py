"""A model exported to ONNX as in the README gives the same logits in onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
import torch

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher


@pytest.mark.parametrize(
    ("model_class", "outputs"),
    [
        (DeiTForImageClassificationWithTeacher, ["logits", "cls_logits", "distillation_logits"]),
        (DeiTForImageClassification, ["logits"]),
    ],
    ids=["distilled", "plain"],
)
def test_onnx_model_answers_for_any_batch_size(
    model_class: Any, outputs: list[str], tiny_config: DeiTConfig, tmp_path: Path
):
    """Red when the batch size becomes fixed, an operation is not exported, or outputs are swapped."""
    tiny_config.use_distillation_token = len(outputs) > 1
    tiny_config.initializer_range = 0.3
    model_class(tiny_config).save_pretrained(tmp_path)
    model = model_class.from_pretrained(tmp_path)
    torch.onnx.export(
        model,
        (torch.zeros(2, 3, 32, 32),),
        tmp_path / "model.onnx",
        dynamic_shapes={"pixel_values": {0: "batch"}},
        input_names=["pixel_values"],
        output_names=outputs,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert [output.name for output in session.get_outputs()] == outputs
    for batch_size in (1, 2, 5):
        pixel_values = torch.randn(batch_size, 3, 32, 32)
        answers = session.run(None, {"pixel_values": pixel_values.numpy()})
        with torch.no_grad():
            expected = model(pixel_values)
        for name, answer in zip(outputs, answers, strict=True):
            np.testing.assert_allclose(answer, expected[name].numpy(), rtol=0, atol=1e-5)
            assert answer.std() > 0.1
