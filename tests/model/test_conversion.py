"""Conversion, with timm as the oracle: equal logits both ways, all name formats, and refused files."""

import argparse
import json
import os
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import AutoImageProcessor, AutoModelForImageClassification

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher
from deit_hf.model.conversion import convert_checkpoint, export_checkpoint, read_labels, to_timm_state_dict

PLAIN, DISTILLED, DEIT3 = "deit_tiny_patch16_224", "deit_tiny_distilled_patch16_224", "deit3_small_patch16_224"
CLASSES = {PLAIN: DeiTForImageClassification, DISTILLED: DeiTForImageClassificationWithTeacher}
SCRIPT = Path(__file__).parents[2] / "scripts" / "convert_checkpoint.py"


def timm_model(name: str, **settings: Any) -> nn.Module:
    """A tiny timm model: 32 pixels, 4 x 4 patches, two layers, 8 dimensions per head, no initial values left."""
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 4, "num_classes": 5}
    model = timm.create_model(name, **{**sizes, **settings})
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(mean=0.5 if parameter.ndim == 1 else 0.0, std=0.25)
    return model.eval()


@torch.no_grad()
def assert_equal_logits(ours: nn.Module, expected: nn.Module, height: int = 32, width: int = 32) -> None:
    images = torch.randn(3, 3, height, width)
    wanted = expected(images)
    wanted = getattr(wanted, "logits", wanted)
    assert wanted.std() > 0.1  # else equal logits prove little
    torch.testing.assert_close(ours(images).logits, wanted, rtol=0, atol=1e-5)


def mmpretrain_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames official weights as in deit3_to_mmpretrain.py of open-mmlab/mmpretrain."""
    renamed = {}
    for name, tensor in state.items():
        if name.startswith("head"):
            renamed[re.sub(r"^(head|head_dist)\.", r"head.layers.\1.", name)] = tensor
            continue
        name = name.replace("patch_embed.proj", "patch_embed.projection").replace("blocks.", "layers.")
        name = name.replace("mlp.fc1", "ffn.layers.0.0").replace("mlp.fc2", "ffn.layers.1")
        name = name.replace("ls1.gamma", "attn.gamma1.weight").replace("ls2.gamma", "ffn.gamma2.weight")
        name = name.replace("norm1", "ln1").replace("norm2", "ln2")
        renamed["backbone." + re.sub(r"^norm\.", "ln1.", name)] = tensor
    return renamed


def official_layer_scale_names(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {re.sub(r"ls(\d)\.gamma", r"gamma_\1", name): tensor for name, tensor in state.items()}


@pytest.mark.parametrize("name", [PLAIN, DISTILLED])
def test_timm_model_gives_equal_logits_and_its_configuration(name: str) -> None:
    source = timm_model(name)
    model = convert_checkpoint(source)

    assert type(model) is CLASSES[name]
    assert not model.training
    config = model.config
    assert (config.hidden_size, config.num_hidden_layers, config.intermediate_size) == (32, 2, 128)
    assert (config.num_attention_heads, config.image_size, config.patch_size, config.num_labels) == (4, 32, 8, 5)
    assert config.layer_norm_eps == 1e-6  # a wrong one moves the logits by less than any tolerance
    assert config.qkv_bias
    assert_equal_logits(model, source)


@pytest.mark.parametrize("name", [PLAIN, DISTILLED])
def test_official_names_load_strictly_into_timm_with_equal_logits(name: str) -> None:
    config = DeiTConfig(
        **{"image_size": 32, "patch_size": 8, "hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 128},
        **{"num_hidden_layers": 2, "num_labels": 5, "use_distillation_token": name == DISTILLED},
    )
    model = CLASSES[name](config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.25)
    back = timm_model(name)
    back.load_state_dict(to_timm_state_dict(model), strict=True)
    assert_equal_logits(model, back)


@pytest.mark.parametrize("name", [PLAIN, DISTILLED])
def test_published_variant_has_all_of_timms_names_and_shapes(name: str) -> None:
    state = to_timm_state_dict(CLASSES[name](DeiTConfig.from_variant(name)))
    with torch.device("meta"):
        expected = timm.create_model(name).state_dict()
    assert {key: tensor.shape for key, tensor in state.items()} == {
        key: tensor.shape for key, tensor in expected.items()
    }


@pytest.mark.parametrize("name", [PLAIN, DISTILLED])
def test_converted_model_loads_in_transformers_with_equal_logits(name: str, tmp_path: Path) -> None:
    source = timm_model(name)
    convert_checkpoint(source).save_pretrained(tmp_path)
    native = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert type(native).__module__.startswith("transformers.")
    assert native.config.layer_norm_eps == 1e-6
    assert_equal_logits(native, source)


def test_converted_model_shares_no_memory_with_its_source_and_leaves_the_random_state_alone() -> None:
    state = timm_model(DISTILLED).state_dict()
    random_state = torch.random.get_rng_state()
    model = convert_checkpoint(state, num_attention_heads=4)
    assert torch.equal(torch.random.get_rng_state(), random_state)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    for tensor in state.values():
        tensor.zero_()
    model.state_dict()["deit.encoder.layer.0.attention.attention.query.weight"].zero_()
    before["deit.encoder.layer.0.attention.attention.query.weight"].zero_()
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_official_training_checkpoint_with_arguments_is_read(tmp_path: Path) -> None:
    source = timm_model(DISTILLED)
    averaged = {name: torch.zeros_like(tensor) for name, tensor in source.state_dict().items()}
    checkpoint = {
        "model": {f"module.{name}": tensor for name, tensor in source.state_dict().items()},
        "optimizer": torch.optim.AdamW(source.parameters()).state_dict(),
        "epoch": 299,
        "model_ema": averaged,
        "args": argparse.Namespace(lr=5e-4, model=DISTILLED, output_dir=Path("/somewhere/else"), mixup=0.8),
    }
    torch.save(checkpoint, tmp_path / "checkpoint.pth")
    assert_equal_logits(convert_checkpoint(tmp_path / "checkpoint.pth", num_attention_heads=4), source)


def test_averaged_weights_are_used_only_where_there_are_no_others() -> None:
    source = timm_model(PLAIN)
    model = convert_checkpoint({"model_ema": source.state_dict(), "epoch": 1}, num_attention_heads=4)
    assert_equal_logits(model, source)


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.module."])
def test_names_of_wrapped_models_are_read(prefix: str, tmp_path: Path) -> None:
    source = timm_model(PLAIN)
    path = tmp_path / "model.safetensors"
    save_file({prefix + name: tensor for name, tensor in source.state_dict().items()}, path)
    assert_equal_logits(convert_checkpoint(str(path), num_attention_heads=4), source)


@pytest.mark.parametrize("name", [PLAIN, DISTILLED, DEIT3])
def test_mmpretrain_checkpoint_gives_equal_logits(name: str, tmp_path: Path) -> None:
    source = timm_model(name)
    torch.save({"meta": {"epoch": 300}, "state_dict": mmpretrain_names(source.state_dict())}, tmp_path / "mm.pth")
    assert_equal_logits(convert_checkpoint(tmp_path / "mm.pth", num_attention_heads=4), source)


@pytest.mark.parametrize("rename", [dict, official_layer_scale_names])
def test_deit3_folds_into_a_plain_vit_with_equal_logits(rename: Any) -> None:
    source = timm_model(DEIT3)
    state = rename(source.state_dict())
    assert state["pos_embed"].shape[1] == 16  # no row for the class token
    model = convert_checkpoint(state, num_attention_heads=4)
    assert model.config.to_dict()["model_type"] == "vit"
    assert model.config.image_size == 32
    assert model.vit.embeddings.position_embeddings[0, 0].abs().max() == 0
    assert_equal_logits(model, source)


@pytest.mark.parametrize("name", [PLAIN, DEIT3])
def test_grid_that_is_not_square_comes_from_the_timm_model_or_the_caller(name: str) -> None:
    # 2 x 4 patches and a class token have nine rows, like a 3 x 3 grid without class token
    source = timm_model(name, img_size=(16, 32))
    for model in (
        convert_checkpoint(source),
        convert_checkpoint(source.state_dict(), image_size=(16, 32), num_attention_heads=4),
    ):
        assert tuple(model.config.image_size) == (16, 32)
        assert_equal_logits(model, source, height=16, width=32)


def test_grid_that_is_not_square_is_not_guessed() -> None:
    state = timm_model(PLAIN, img_size=(16, 32)).state_dict()
    with pytest.raises(ValueError, match=r"position table has 9 rows.*pass the checkpoint's own `image_size="):
        convert_checkpoint(state, num_attention_heads=4)


def test_number_of_heads_is_width_over_64_or_must_be_given() -> None:
    source = timm_model(PLAIN, embed_dim=128, num_heads=2)
    model = convert_checkpoint(source.state_dict())
    assert model.config.num_attention_heads == 2
    assert_equal_logits(model, source)
    with pytest.raises(ValueError, match="width 32 is not a multiple of the head size 64; pass `num_attention_heads`"):
        convert_checkpoint(timm_model(PLAIN).state_dict())


def test_checkpoint_without_qkv_bias_has_none_after_conversion() -> None:
    source = timm_model(DISTILLED, qkv_bias=False)
    model = convert_checkpoint(source)
    assert not model.config.qkv_bias
    assert not [name for name in model.state_dict() if name.endswith("query.bias")]
    assert to_timm_state_dict(model).keys() == source.state_dict().keys()
    assert_equal_logits(model, source)


def test_epsilon_of_a_timm_model_is_kept() -> None:
    other = timm_model(PLAIN)
    for module in other.modules():
        if isinstance(module, nn.LayerNorm):
            module.eps = 1e-2
    model = convert_checkpoint(other)
    assert model.config.layer_norm_eps == 1e-2
    assert_equal_logits(model, other)


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "deit_tiny_patch16_224"])
def test_timm_model_of_other_pixels_says_which_processor_to_save(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Red when a ViT trained with mean 0.5 is saved with ImageNet's statistics without a warning."""
    convert_checkpoint(timm.create_model(name, img_size=32, depth=1, num_classes=5))
    advice = "save `make_processor((32, 32), mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))` with the model"
    assert (advice in caplog.text) == name.startswith("vit")


def test_half_precision_checkpoint_becomes_float32() -> None:
    source = timm_model(PLAIN).half()
    model = convert_checkpoint(source.state_dict(), num_attention_heads=4)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert_equal_logits(model, source.float())


def test_checkpoint_without_a_head_is_converted_only_when_asked() -> None:
    source = timm_model(DISTILLED, num_classes=0)
    with pytest.raises(ValueError, match="head has 0 classes.*make it 0"):
        convert_checkpoint(source)
    assert_equal_logits(convert_checkpoint(source, num_labels=0), source)


def test_labels_are_kept_both_ways() -> None:
    names = {0: "cat", 1: "dog", 2: "emu", 3: "fox", 4: "gnu"}
    config = convert_checkpoint(timm_model(PLAIN), id2label=names).config
    assert config.id2label == names
    assert config.label2id == {name: index for index, name in names.items()}


def test_labels_of_another_number_than_the_head_are_refused() -> None:
    with pytest.raises(ValueError, match="head has 5 classes, but `num_labels` or `id2label` has 2"):
        convert_checkpoint(timm_model(PLAIN), id2label={0: "cat", 1: "dog"})


def test_given_configuration_is_used_and_not_changed() -> None:
    source = timm_model(PLAIN)
    config = convert_checkpoint(source).config
    config.drop_path_rate = 0.3
    model = convert_checkpoint(source.state_dict(), config=config)
    assert model.config.drop_path_rate == 0.3
    assert model.config is not config
    assert_equal_logits(model, source)
    with pytest.raises(ValueError, match="`config` and `num_labels` were both given"):
        convert_checkpoint(source, config=config, num_labels=5)
    config.intermediate_size = 64
    with pytest.raises(ValueError, match=r"shapes do not fit the configuration: size mismatch for vit\.encoder"):
        convert_checkpoint(source, config=config)


@pytest.mark.parametrize("settings", [{"global_pool": "avg", "fc_norm": False}, {"act_layer": "gelu_tanh"}])
def test_timm_model_that_computes_something_else_is_refused(settings: dict[str, Any]) -> None:
    source = timm_model(PLAIN, **settings)
    assert source.state_dict().keys() == timm_model(PLAIN).state_dict().keys()  # no difference in the tensors
    with pytest.raises(ValueError, match="VisionTransformer is not a DeiT: its pooling, activation"):
        convert_checkpoint(source)


class Malicious:
    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def test_file_that_carries_code_is_refused_and_the_code_is_not_run(tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pth", tmp_path / "executed"
    torch.save({"model": timm_model(PLAIN).state_dict(), "args": Malicious(marker)}, path)
    with pytest.raises(
        ValueError, match=r"evil\.pth` holds `posix\.mkdir`.*could run code, so it was not opened"
    ) as e:
        convert_checkpoint(path, num_attention_heads=4)
    assert not marker.exists()
    assert "\n" not in str(e.value)
    torch.load(path, weights_only=False)
    assert marker.exists()  # the file does run code if it is unpickled


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("kept", [0.0, 0.001, 0.6, 0.99])
def test_truncated_file_is_refused_by_name(kept: float, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"cut{suffix}"
    state = timm_model(PLAIN).state_dict()
    if suffix == ".pth":
        torch.save(state, path)
    else:
        save_file(state, path)
    path.write_bytes(path.read_bytes()[: int(kept * path.stat().st_size)])
    with pytest.raises(ValueError, match=r"cut\.\w+` is damaged, or not a checkpoint") as e:
        convert_checkpoint(path, num_attention_heads=4)
    assert "\n" not in str(e.value)


def test_truncated_file_of_the_old_format_is_refused(tmp_path: Path) -> None:
    torch.save(timm_model(PLAIN).state_dict(), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    convert_checkpoint(tmp_path / "old.pth", num_attention_heads=4)
    (tmp_path / "cut.pth").write_bytes((tmp_path / "old.pth").read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"cut\.pth` is damaged"):
        convert_checkpoint(tmp_path / "cut.pth", num_attention_heads=4)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "does not hold a state dict .* but nothing"),
        ({"epoch": 3, "model": None}, "does not hold a state dict .* but `epoch`, `model`"),
        (torch.zeros(3), "does not hold a state dict .* but `Tensor`"),
        ({"model": {}}, "does not hold a state dict .* but nothing"),
    ],
)
def test_file_without_weights_is_refused_by_name(content: Any, message: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "other.pth")
    with pytest.raises(ValueError, match=rf"other\.pth` {message}"):
        convert_checkpoint(tmp_path / "other.pth")


def test_file_that_is_missing_or_a_directory_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"no file at `.*gone\.pth`"):
        convert_checkpoint(tmp_path / "gone.pth")
    with pytest.raises(FileNotFoundError, match="not a directory"):
        convert_checkpoint(tmp_path)
    with pytest.raises(TypeError, match="`checkpoint` is a int"):
        convert_checkpoint(3)  # type: ignore[arg-type]  # the very mistake


def test_another_network_is_refused_in_one_line() -> None:
    resnet = timm.create_model("test_resnet", num_classes=5)
    with pytest.raises(ValueError, match=r"the ResNet is not a DeiT: it lacks `cls_token`.*`conv1\..* more$") as e:
        convert_checkpoint(resnet)
    assert len(str(e.value)) < 500


def test_tensors_left_over_are_listed_and_counted() -> None:
    state = timm_model(PLAIN).state_dict()
    state |= {f"extra.{index}": torch.zeros(1) for index in range(11)}
    with pytest.raises(
        ValueError, match=r"plain DeiT of 2 layers; missing: nothing; unknown: `extra\.0`.* and 3 more"
    ):
        convert_checkpoint(state, num_attention_heads=4)


@pytest.mark.parametrize("missing", ["norm.bias", "head_dist.weight", "blocks.1.attn.qkv.weight"])
def test_tensors_that_are_missing_are_listed(missing: str) -> None:
    state = timm_model(DISTILLED).state_dict()
    del state[missing]
    with pytest.raises(
        ValueError, match=rf"distilled DeiT of 2 layers; missing: `{re.escape(missing)}`; unknown: not"
    ):
        convert_checkpoint(state, num_attention_heads=4)


def test_models_that_official_code_cannot_hold_are_not_exported(tiny_config: DeiTConfig) -> None:
    with pytest.raises(ValueError, match="distillation token without a head"):
        to_timm_state_dict(DeiTForImageClassification(tiny_config))
    tiny_config.hidden_act = "relu"
    with pytest.raises(ValueError, match="`hidden_act` is 'relu'"):
        to_timm_state_dict(DeiTForImageClassificationWithTeacher(tiny_config))
    with pytest.raises(TypeError, match="`model` is a Linear"):
        to_timm_state_dict(nn.Linear(1, 1))  # type: ignore[arg-type]  # the very mistake


def test_saved_model_without_its_head_is_not_exported(tiny_config: DeiTConfig, tmp_path: Path) -> None:
    DeiTForImageClassification(tiny_config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"not a trained classifier: it has no weights for cls_classifier\.bias"):
        export_checkpoint(tmp_path, tmp_path / "model.pth")
    with pytest.raises(FileNotFoundError, match="no saved model at"):
        export_checkpoint(tmp_path / "gone", tmp_path / "model.pth")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("names.txt", "tabby cat\n dog\n"),
        ("names.json", '["tabby cat", "dog"]'),
        ("names.json", '{"1": "dog", "0": "tabby cat"}'),
    ],
)
def test_labels_are_read_from_text_and_json(file: str, text: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    assert read_labels(tmp_path / file) == {0: "tabby cat", 1: "dog"}


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("names.txt", "", "must list the class names"),
        ("names.txt", "cat\n\ndog\n", "must list the class names"),
        ("names.json", '{"0": "cat", "2": "dog"}', "must list the class names"),
        ("names.json", "[1, 2]", "must list the class names"),
        ("names.json", "cat", "is not valid JSON"),
    ],
)
def test_labels_with_gaps_are_refused_by_name(file: str, text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text(text)
    with pytest.raises(ValueError, match=f"{file}` {message}"):
        read_labels(tmp_path / file)


def run_script(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> None:
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *map(str, arguments)])
    monkeypatch.setattr(sys, "path", [str(SCRIPT.parent), *sys.path])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_script_writes_model_and_processor_and_the_way_back_restores_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, directory = timm_model(DISTILLED), tmp_path / "converted"
    torch.save({"model": source.state_dict()}, tmp_path / "official.pth")
    (tmp_path / "names.json").write_text(json.dumps(["cat", "dog", "emu", "fox", "gnu"]))
    extra = ["--num_attention_heads", "4", "--labels", tmp_path / "names.json"]
    run_script(monkeypatch, tmp_path / "official.pth", directory, *extra)

    native = AutoModelForImageClassification.from_pretrained(directory)
    assert native.config.id2label[2] == "emu"
    assert_equal_logits(native, source)
    processor = AutoImageProcessor.from_pretrained(directory)
    assert (processor.size["shortest_edge"], dict(processor.crop_size)) == (32, {"height": 32, "width": 32})
    assert list(processor.image_mean) == [0.485, 0.456, 0.406]

    run_script(monkeypatch, directory, tmp_path / "back" / "timm.safetensors", "--to_timm")
    torch.testing.assert_close(
        load_file(tmp_path / "back" / "timm.safetensors"), dict(source.state_dict()), rtol=0, atol=0
    )


def test_script_keeps_what_is_there_unless_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source, directory = tmp_path / "official.pth", tmp_path / "converted"
    torch.save(timm_model(PLAIN).state_dict(), source)
    directory.mkdir()
    run_script(monkeypatch, source, directory, "--num_attention_heads", "4")  # an empty directory may be replaced
    before = (directory / "model.safetensors").read_bytes()
    torch.save(timm_model(PLAIN).state_dict(), source)
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        run_script(monkeypatch, source, directory, "--num_attention_heads", "4")
    message = capsys.readouterr().err
    assert re.fullmatch(r"error: `.*converted` already exists and is not empty; .* --overwrite\n", message)
    assert (directory / "model.safetensors").read_bytes() == before
    run_script(monkeypatch, source, directory, "--num_attention_heads", "4", "--overwrite")
    assert (directory / "model.safetensors").read_bytes() != before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.pth", "out"], "no file at `gone.pth`"),
        (["gone", "out.safetensors", "--to_timm"], "no saved model at `gone`"),
        (["gone", "out.pth", "--to_timm"], "is a `.safetensors` file, but `out.pth` is not"),
        (
            ["gone", "a.safetensors", "--to_timm", "--num_attention_heads", "3"],
            "`num_attention_heads` cannot be given",
        ),
        (["gone", "file", "--overwrite"], "`file` already exists and is a file"),
        (["gone", "out", "--labels", "gone.txt"], "gone.txt"),
    ],
)
def test_script_tells_mistakes_in_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("file").write_text("something")
    with pytest.raises(SystemExit, match="2"):
        run_script(monkeypatch, *arguments)
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert message in error
    assert error.count("\n") == 1
    assert Path("file").read_text() == "something"


def test_file_of_class_names_that_cannot_be_read_is_named(tmp_path: Path):
    with pytest.raises(
        FileNotFoundError, match=r"class names \(`labels`\) cannot be read from `.*none.txt`: .*No such"
    ):
        read_labels(tmp_path / "none.txt")
    with pytest.raises(ValueError, match=r"class names \(`labels`\) cannot be read from `.*`: .*Is a directory"):
        read_labels(tmp_path)
    (tmp_path / "latin.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match=r"class names \(`labels`\) cannot be read from `.*latin.txt`: .*decode"):
        read_labels(tmp_path / "latin.txt")
