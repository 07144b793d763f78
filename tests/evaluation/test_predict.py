"""Predictions equal those of transformers' pipeline, which does not use this package."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import ResNetConfig, ResNetForImageClassification, pipeline

from deit_hf import DeiTConfig, DeiTForImageClassification, DeiTForImageClassificationWithTeacher
from deit_hf.evaluation.predict import predict
from deit_hf.model.image_processing_deit import make_processor

NAMES = ["ant", "bee", "cat", "dog", "eel"]
LABELS = {"id2label": dict(enumerate(NAMES)), "label2id": {name: i for i, name in enumerate(NAMES)}}


def save_model(kind: str, config: DeiTConfig, path: Path) -> str:
    """Saves a model with random weights, large enough for different predictions, and its processor."""
    config.initializer_range = 0.5
    config.id2label, config.label2id = LABELS["id2label"], LABELS["label2id"]
    if kind == "distilled":
        model = DeiTForImageClassificationWithTeacher(config)
    elif kind == "plain":
        config.use_distillation_token = False
        model = DeiTForImageClassification(config)
    else:
        sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"}
        model = ResNetForImageClassification(ResNetConfig(**sizes, **LABELS))
    model.save_pretrained(path)
    make_processor(32).save_pretrained(path)
    return str(path)


@pytest.fixture
def model(tmp_path: Path, tiny_config: DeiTConfig) -> str:
    return save_model("distilled", tiny_config, tmp_path / "model")


def write_images(folder: Path) -> list[str]:
    """Writes images of several modes and sizes, one of them with EXIF rotation."""
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 4), dtype=np.uint8)
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.fromarray(noise[..., :3]).save(folder / "rgb.png")
    Image.fromarray(noise[..., :3]).save(folder / "turned.jpg", exif=turned)
    Image.fromarray(noise[..., 0]).save(folder / "grey.png")
    Image.fromarray(noise).save(folder / "transparent.png")
    Image.fromarray(noise[..., :3]).convert("CMYK").save(folder / "cmyk.tiff")
    return sorted(str(path) for path in folder.iterdir() if path.is_file())


@pytest.mark.parametrize("kind", ["distilled", "plain", "resnet"])
def test_classes_and_probabilities_are_those_of_the_pipeline(tmp_path: Path, tiny_config: DeiTConfig, kind: str):
    # another head, another view, or a softmax before the mean of the heads changes the values
    model = save_model(kind, tiny_config, tmp_path / "model")
    images = write_images(tmp_path)
    expected = pipeline("image-classification", model=model)(images, top_k=3)
    predictions = list(predict(images, model, num_best=3))
    assert [prediction.image for prediction in predictions] == images
    for prediction, answers in zip(predictions, expected, strict=True):
        assert [label for label, _ in prediction.classes] == [answer["label"] for answer in answers]
        scores = [answer["score"] for answer in answers]
        assert [probability for _, probability in prediction.classes] == pytest.approx(scores, abs=1e-6)
    # three files have the same colours; the grey and the rotated one must differ, or the test compares nothing
    assert len({tuple(prediction.classes) for prediction in predictions}) == 3


def test_one_class_is_the_best_one(tmp_path: Path, model: str):
    image = write_images(tmp_path)[0]
    (alone,), (every,) = predict([image], model, num_best=1), predict([image], model, num_best=99)
    assert alone.classes == every.classes[:1]


def test_all_classes_at_most_are_given_best_first_and_sum_to_one(tmp_path: Path, model: str):
    image = write_images(tmp_path)[0]
    (prediction,) = predict([image], model, num_best=99)
    labels, probabilities = zip(*prediction.classes, strict=True)
    assert sorted(labels) == NAMES
    assert list(probabilities) == sorted(probabilities, reverse=True)
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)


def test_pictures_before_a_bad_one_are_answered(tmp_path: Path, model: str):
    (tmp_path / "bad.png").write_text("hello")
    answers = predict([write_images(tmp_path)[1], str(tmp_path / "bad.png")], model)
    assert next(answers).image.endswith("cmyk.tiff")
    with pytest.raises(ValueError, match=r"^[^ ]*bad.png is empty or not in an image format that Pillow knows"):
        next(answers)


def test_missing_picture_is_named(tmp_path: Path, model: str):
    with pytest.raises(FileNotFoundError, match=r"^[^ ]*none.png: there is no such file$"):
        list(predict([str(tmp_path / "none.png")], model))


def test_missing_model_is_named(tmp_path: Path):
    with pytest.raises(FileNotFoundError, match="no directory `.*none`; name a saved model, or a Hub id"):
        list(predict([], str(tmp_path / "none")))


@pytest.mark.parametrize("num_best", [0, -1])
def test_number_of_classes_to_show_is_at_least_one(num_best: int):
    with pytest.raises(ValueError, match=rf"`num_best` \(`--top_k`\) is {num_best}, but must be 1 or more"):
        predict([], "none", num_best=num_best)  # refused before the model is loaded


@pytest.mark.parametrize("source", ["weights.pth", "timm:resnet18"])
def test_model_that_is_no_saved_model_says_what_to_do(tmp_path: Path, source: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.pth").write_bytes(b"x")
    with pytest.raises(ValueError, match=f"`{source}` (is a file|names a model of timm), .*deit-hf convert"):
        list(predict([], source))


def test_directory_of_pictures_and_model_without_processor_say_what_to_do(tmp_path: Path, model: str):
    with pytest.raises(ValueError, match="it is a directory, not a file; name the images in it"):
        list(predict([str(tmp_path)], model))
    (Path(model) / "preprocessor_config.json").unlink()
    with pytest.raises(
        FileNotFoundError, match=r"model` has no image processor \(preprocessor_config.json\); save one"
    ):
        list(predict([], model))
    with pytest.raises(ValueError, match="the name of a model is empty; name a directory or a Hub id"):
        list(predict([], " "))
