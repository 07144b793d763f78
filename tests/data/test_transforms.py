"""Compares views with the transforms of the official recipe: torchvision's for evaluation, timm's for training."""

import random
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter, ImageOps
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD, RandomResizedCropAndInterpolation
from timm.data.auto_augment import AugmentOp, rand_augment_transform
from timm.data.random_erasing import RandomErasing
from torch import Tensor
from torchvision import transforms
from torchvision.transforms import InterpolationMode
from torchvision.transforms.functional import crop, pil_to_tensor
from transformers import AutoImageProcessor, DeiTImageProcessor, TimmWrapperImageProcessor

from deit_hf.data.dataset import seeded
from deit_hf.data.finishing import PixelFinisher, draw_erasure
from deit_hf.data.transforms import (
    evaluation_view,
    posterize,
    random_flip,
    simple_crop,
    three_augment,
    training_view,
)
from deit_hf.model.image_processing_deit import crop_in_words, crop_size, make_processor, with_crop

PAPER = {
    "crop_min_scale": 0.08,
    "horizontal_flip_prob": 0.5,
    "random_augment": "rand-m9-mstd0.5-inc1",
    "color_jitter": 0.3,
    "random_erase_prob": 0.25,
}
OFF = {
    "crop_min_scale": 1.0,
    "horizontal_flip_prob": 0.0,
    "random_augment": "none",
    "color_jitter": 0.0,
    "random_erase_prob": 0.0,
}
RAND_AUGMENT_OPS = [
    "AutoContrast",
    "Equalize",
    "Invert",
    "Rotate",
    "PosterizeIncreasing",
    "SolarizeIncreasing",
    "SolarizeAdd",
    "ColorIncreasing",
    "ContrastIncreasing",
    "BrightnessIncreasing",
    "SharpnessIncreasing",
    "ShearX",
    "ShearY",
    "TranslateXRel",
    "TranslateYRel",
]


def noise(height: int, width: int) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8))


def official_view(size: tuple[int, int], short_side: int, center_crop=transforms.CenterCrop) -> transforms.Compose:
    """Official datasets.py:98-108, with torchvision's transforms only."""
    return transforms.Compose(
        [
            transforms.Resize(short_side, interpolation=InterpolationMode.BICUBIC),
            center_crop(size),
            transforms.ToTensor(),
            transforms.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )


def pil_view(size, tmp_path, **crop):
    make_processor(size, **crop).save_pretrained(tmp_path)
    return evaluation_view(AutoImageProcessor.from_pretrained(tmp_path, backend="pil"))


def make_view(size: tuple[int, int] = (32, 32), **options):
    return training_view(size, mean=IMAGENET_DEFAULT_MEAN, std=IMAGENET_DEFAULT_STD, **{**PAPER, **options})


def finished(view, image: Image.Image) -> Tensor:
    """The normalised and erased pixels of a training view."""
    pixels, erasure = view(image)
    return PixelFinisher(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)(pixels[None], [erasure])[0]


def seed_all(seed: int) -> None:
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def test_training_view_of_a_small_size_is_as_the_options_say():
    crop = make_view((32, 32), crop_min_scale=0.4).steps[0].args[0]
    assert type(crop) is RandomResizedCropAndInterpolation
    assert (crop.size, crop.scale) == ((32, 32), (0.4, 1.0))


# ---- evaluation ----


@pytest.mark.parametrize(
    ("size", "short_side"),
    [(224, 256), (384, 438), ((32, 48), 54), ((48, 32), 54)],
    ids=["224", "384", "wide", "tall"],
)
@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (500, 500), (64, 100), (20, 30)])
def test_pil_backend_gives_the_official_view_bit_for_bit(tmp_path, size, short_side: int, shape: tuple[int, int]):
    # fails for another aspect ratio, filter, short side, mean or standard deviation
    expected = official_view(size if isinstance(size, tuple) else (size, size), short_side)(noise(*shape))
    assert torch.equal(pil_view(size, tmp_path)(noise(*shape)), expected)


@pytest.mark.parametrize(("ratio", "short_side"), [(1.0, 224), (0.9, 248), (0.875, 256)])
@pytest.mark.parametrize("shape", [(300, 400), (40, 30)])
def test_crop_ratio_is_the_crops_share_of_the_short_side(tmp_path, ratio: float, short_side: int, shape):
    expected = official_view((224, 224), short_side)(noise(*shape))
    assert torch.equal(pil_view(224, tmp_path, crop_ratio=ratio)(noise(*shape)), expected)


@pytest.mark.parametrize("size", [(384, 384), (32, 48)], ids=["square", "wide"])
@pytest.mark.parametrize("shape", [(300, 400), (400, 300), (384, 384)])
def test_squash_resizes_the_whole_image_whatever_its_shape(tmp_path, size: tuple[int, int], shape: tuple[int, int]):
    def nothing(size: tuple[int, int]):
        return lambda image: image

    view = pil_view(size, tmp_path, eval_crop="squash")(noise(*shape))
    assert view.shape == (3, *size)
    assert torch.equal(view, official_view(size, size, nothing)(noise(*shape)))


@pytest.mark.parametrize("ratio", [0, -0.5, 1.1, 87.5])
def test_crop_ratio_outside_its_range_is_refused(ratio: float):
    with pytest.raises(ValueError, match=rf"`crop_ratio` is {ratio}, but must be in \(0, 1\]"):
        make_processor(224, crop_ratio=ratio)


def test_unknown_crop_is_refused():
    with pytest.raises(ValueError, match="`eval_crop` is 'top', but must be 'center' or 'squash'"):
        make_processor(224, eval_crop="top")


TIMM = TimmWrapperImageProcessor(
    {"input_size": (3, 40, 24), "crop_pct": 0.95, "mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)},
    architecture="resnet18",
)


@pytest.mark.parametrize(
    "processor", [make_processor((40, 24), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), TIMM], ids=["own", "timm"]
)
def test_another_crop_keeps_size_and_statistics(processor):
    assert with_crop(processor) is processor
    kept = {"mean": (0.1, 0.2, 0.3), "std": (0.4, 0.5, 0.6)}
    for options in ({"crop_ratio": 1.0}, {"eval_crop": "squash"}, {"eval_crop": "center"}):
        expected = evaluation_view(make_processor((40, 24), **options, **kept))(noise(70, 50))
        assert torch.equal(evaluation_view(with_crop(processor, **options))(noise(70, 50)), expected)


def test_crop_of_a_processor_that_does_something_else_is_not_changed():
    processor = DeiTImageProcessor(do_normalize=False)
    with pytest.raises(
        ValueError, match="crop of this DeiTImageProcessor cannot be changed, because it does not normalise"
    ):
        with_crop(processor, crop_ratio=1.0)


@pytest.mark.parametrize(
    ("processor", "words"),
    [
        (make_processor(224), "short side resized to 256 pixels (bicubic), centre crop of 224x224"),
        (make_processor((32, 48), crop_ratio=1.0), "short side resized to 48 pixels (bicubic), centre crop of 32x48"),
        (make_processor(384, eval_crop="squash"), "whole image resized to 384x384 pixels (bicubic)"),
        (
            DeiTImageProcessor(resample=2),
            "whole image resized to 256x256 pixels (bilinear), centre crop of 224x224",
        ),
        (TIMM, "timm's center crop, ratio 0.95 (bicubic)"),
    ],
    ids=["paper", "ratio 1", "squash", "transformers", "timm"],
)
def test_crop_is_said_in_words(processor, words: str):
    assert crop_in_words(processor.to_dict()) == words


def test_odd_margin_is_cut_one_row_higher_than_in_torchvision(tmp_path):
    # 257 x 256 is resized to 439 x 438: of the 55 extra rows, transformers removes 27 at the top, torchvision 28
    def crop_27_above(size: tuple[int, int]):
        return lambda image: crop(image, 27, 27, *size)

    view = pil_view(384, tmp_path)(noise(257, 256))
    assert torch.equal(view, official_view((384, 384), 438, crop_27_above)(noise(257, 256)))
    assert not torch.equal(view, official_view((384, 384), 438)(noise(257, 256)))


@pytest.mark.parametrize("size", [224, 384])
@pytest.mark.parametrize("shape", [(300, 400), (500, 500), (20, 30)])
def test_default_backend_is_within_two_of_255_levels_of_the_official_view(size: int, shape: tuple[int, int]):
    # measured: at most 2 levels in a pixel, 0.013 levels on average; the backend rounds after resizing each axis
    expected = official_view((size, size), int(size / 0.875))(noise(*shape))
    levels = (evaluation_view(make_processor(size))(noise(*shape)) - expected).abs() * 255
    levels = levels * torch.tensor(IMAGENET_DEFAULT_STD)[:, None, None]
    assert levels.max().item() < 2.01
    assert levels.mean().item() < 0.02


@pytest.mark.parametrize("shape", [(60, 40), (32, 32), (7, 90)])
def test_constant_picture_comes_out_normalised_with_imagenets_statistics(shape: tuple[int, int]):
    pixel_values = evaluation_view(make_processor(32))(Image.new("RGB", shape, (255, 128, 0)))
    expected = torch.tensor([(1 - 0.485) / 0.229, (128 / 255 - 0.456) / 0.224, (0 - 0.406) / 0.225])
    torch.testing.assert_close(pixel_values, expected[:, None, None].expand(3, 32, 32), rtol=0, atol=1e-5)


def test_saved_processor_is_transformers_own_and_gives_the_same_pixels(tmp_path):
    processor = make_processor((32, 48), mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6))
    processor.save_pretrained(tmp_path)
    loaded = AutoImageProcessor.from_pretrained(tmp_path)
    assert type(loaded) is DeiTImageProcessor
    assert torch.equal(evaluation_view(loaded)(noise(70, 50)), evaluation_view(processor)(noise(70, 50)))


@pytest.mark.parametrize(
    ("processor", "expected"),
    [
        (make_processor(32), (32, 32)),
        (make_processor((32, 48)), (32, 48)),
        (DeiTImageProcessor(size={"height": 40, "width": 24}, do_center_crop=False), (40, 24)),
        (TimmWrapperImageProcessor({"input_size": (3, 40, 24)}, architecture="resnet18"), (40, 24)),
    ],
    ids=["square", "wide", "no crop", "timm"],
)
def test_crop_size_is_that_of_the_pixels(processor, expected: tuple[int, int]):
    assert crop_size(processor) == expected
    assert evaluation_view(processor)(noise(60, 50)).shape == (3, *expected)


def test_processor_that_does_not_fix_the_size_is_refused():
    processor = DeiTImageProcessor(size={"shortest_edge": 256}, do_center_crop=False)
    with pytest.raises(ValueError, match="'shortest_edge': 256.*does not fix height and width; use `deit_hf"):
        crop_size(processor)


# ---- training ----


def test_training_view_is_the_papers_op_by_op():
    view = make_view((224, 224))
    (crop_step, flip, _), erase = view.steps, view.erase
    crop_op = crop_step.args[0]
    assert isinstance(crop_op, RandomResizedCropAndInterpolation)
    assert (crop_op.size, crop_op.scale, crop_op.interpolation) == ((224, 224), (0.08, 1.0), InterpolationMode.BICUBIC)
    assert crop_op.ratio == pytest.approx((3 / 4, 4 / 3))
    assert isinstance(flip.args[0], transforms.RandomHorizontalFlip)
    assert flip.args[0].p == 0.5
    # separate noise for each pixel
    assert isinstance(erase, RandomErasing)
    assert (erase.probability, erase.per_pixel, erase.min_count, erase.max_count) == (0.25, True, 1, 1)
    assert (erase.min_area, erase.max_area) == pytest.approx((0.02, 1 / 3))


def test_flip_is_torchvisions():
    flip, image = transforms.RandomHorizontalFlip(0.3), noise(20, 30)
    for seed in range(20):
        with seeded(seed):
            expected = flip(image), torch.rand(1)
        with seeded(seed):
            assert (random_flip(flip, image), torch.rand(1)) == expected


def test_rand_augment_is_timms_with_two_increasing_ops_at_half_probability():
    augment = make_view((224, 224)).steps[2]
    assert augment.num_layers == 2
    assert augment.choice_weights is None
    assert [op.name for op in augment.ops] == RAND_AUGMENT_OPS
    settings = {(op.prob, op.magnitude, op.magnitude_std, op.kwargs["resample"]) for op in augment.ops}
    assert settings == {(0.5, 9, 0.5, Image.Resampling.BICUBIC)}
    assert {op.kwargs["fillcolor"] for op in augment.ops} == {(124, 116, 104)}


@pytest.mark.parametrize("name", RAND_AUGMENT_OPS)
def test_each_rand_augment_operation_is_timms_under_the_same_seed(name: str):
    # fails for another strength, sign, noise, fill colour or filter of any operation
    settings = {"translate_const": 100, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    theirs = AugmentOp(name, prob=0.5, magnitude=9, hparams={**settings, "magnitude_std": 0.5})
    ours = {op.name: op for op in make_view((224, 224)).steps[2].ops}[name]
    image, changed = Image.fromarray(np.asarray(noise(24, 30)) // 2 + 60), 0
    for seed in range(40):
        seed_all(seed)
        try:
            expected = theirs(image)
        except ValueError:
            assert name == "PosterizeIncreasing"  # to 0 bits, which Pillow 13 refuses
            expected = Image.new("RGB", image.size)
        seed_all(seed)
        assert np.array_equal(ours(image), expected), seed
        changed += expected is not image
    assert 10 <= changed <= 30


def test_rand_augment_chooses_as_timm_does_and_varies_the_magnitude():
    def applied(policy) -> list[tuple]:
        calls: list[tuple] = []
        for op in policy.ops:
            op.aug_fn = lambda image, *args, op=op, **kwargs: calls.append((op.name, *args)) or image
        seed_all(0)
        for _ in range(3000):
            policy(Image.new("RGB", (1, 1)))
        return calls

    settings = {"translate_const": 14, "img_mean": (124, 116, 104)}
    ours = applied(make_view().steps[2])
    assert ours == applied(rand_augment_transform("rand-m9-mstd0.5-inc1", settings))
    assert len(ours) / 3000 == pytest.approx(2 * 0.5, abs=0.04)
    counts = Counter(name for name, *_ in ours)
    assert set(counts) == set(RAND_AUGMENT_OPS)
    assert all(count == pytest.approx(200, abs=50) for count in counts.values())  # standard deviation 14
    one_level = {"Rotate": 3, "ShearX": 0.03, "ShearY": 0.03}  # in degrees, or as a share of the side
    levels = [args[0] / one_level[name] for name, *args in ours if name in one_level]
    assert np.mean(np.sign(levels)) == pytest.approx(0, abs=0.12)
    magnitudes = np.abs(levels)
    assert np.mean(magnitudes) == pytest.approx(8.996, abs=0.06)  # mean of N(9, 0.5) clipped at 10
    assert np.std(magnitudes) == pytest.approx(0.49, abs=0.04)
    assert max(magnitudes) == pytest.approx(10)


def test_erased_boxes_are_timms_and_have_the_papers_statistics():
    ours, theirs = make_view().erase, RandomErasing(0.25, mode="pixel", max_count=1, device="cpu")
    areas, log_ratios, values = [], [], []
    seed_all(0)
    for _ in range(2000):
        states = random.getstate(), torch.get_rng_state()
        erased, erasure = torch.zeros(3, 64, 64), draw_erasure(ours, (3, 64, 64))
        if erasure is not None:
            top, left, noise_of_box = erasure
            erased[:, top : top + noise_of_box.shape[1], left : left + noise_of_box.shape[2]] = noise_of_box
        random.setstate(states[0])
        torch.set_rng_state(states[1])
        assert torch.equal(theirs(torch.zeros(3, 64, 64)), erased)
        rows, columns = erased[0].any(dim=1).nonzero(), erased[0].any(dim=0).nonzero()
        if len(rows):
            height, width = (int(span[-1] - span[0]) + 1 for span in (rows, columns))
            areas.append(height * width / 64**2)
            log_ratios.append(np.log(height / width))
            values.append(erased[erased != 0])
    assert len(areas) / 2000 == pytest.approx(0.25, abs=0.03)
    assert 0.018 < min(areas) < 0.03
    assert 0.31 < max(areas) < 0.345
    assert np.mean(areas) == pytest.approx((0.02 + 1 / 3) / 2, abs=0.015)
    assert np.abs(log_ratios).max() == pytest.approx(np.log(1 / 0.3), abs=0.15)
    assert np.mean(log_ratios) == pytest.approx(0, abs=0.1)
    pixels = torch.cat(values)
    # each channel of each pixel has its own random number
    assert pixels.numel() == pytest.approx(3 * 64**2 * sum(areas))
    assert (pixels.mean().item(), pixels.std().item()) == pytest.approx((0, 1), abs=0.01)
    assert pixels.unique().numel() > 0.9 * pixels.numel()


def test_normalised_pixels_are_torchvisions_bit_for_bit():
    # every level in every channel; the channels differ, and so do height and width
    levels = np.arange(256, dtype=np.uint8).reshape(8, 32)
    image = Image.fromarray(np.stack([levels, levels[::-1], levels[:, ::-1]], axis=-1))
    statistics = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    expected = transforms.Compose([transforms.ToTensor(), transforms.Normalize(*statistics)])(image)
    assert torch.equal(PixelFinisher(*statistics)(pil_to_tensor(image)[None], [None])[0], expected)


def test_training_view_equals_timms_parts_under_the_same_seeds():
    settings = {"translate_const": 14, "img_mean": (124, 116, 104), "interpolation": Image.Resampling.BICUBIC}
    parts = transforms.Compose(
        [
            RandomResizedCropAndInterpolation(
                (32, 40), scale=(0.08, 1.0), ratio=(3 / 4, 4 / 3), interpolation="bicubic"
            ),
            transforms.RandomHorizontalFlip(0.5),
            rand_augment_transform("rand-m9-mstd0.5-inc1", settings),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
            RandomErasing(0.25, mode="pixel", max_count=1, device="cpu"),
        ]
    )
    view = make_view((32, 40))
    for seed in range(40):
        seed_all(seed)
        expected = parts(noise(60, 50))
        seed_all(seed)
        assert torch.equal(finished(view, noise(60, 50)), expected), seed


def test_posterize_to_no_bits_is_black_whatever_pillow_says():
    image = noise(20, 20)
    assert posterize(image, 0).getextrema() == ((0, 0), (0, 0), (0, 0))
    assert np.array_equal(posterize(image, 4), np.asarray(image) & 0b11110000)


def test_strongest_magnitude_never_ends_a_training():
    view = make_view(random_augment="rand-m10-mstd0.5-inc1-n6")  # asks for 0 bits, which Pillow 13 refuses
    for seed in range(40):
        seed_all(seed)
        assert finished(view, noise(24, 24)).isfinite().all()


def test_colour_jitter_only_works_without_random_augment():
    def kinds(**options) -> list[type]:
        return [type(op) for op in make_view(**options).steps]

    assert transforms.ColorJitter not in kinds()
    assert transforms.ColorJitter in kinds(random_augment="rand-m5-n1-p1-t3a")  # the exception in timm
    assert transforms.ColorJitter not in kinds(random_augment="none", color_jitter=0.0)
    jitter = make_view(random_augment="none").steps[2]
    assert isinstance(jitter, transforms.ColorJitter)
    assert (jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) == (*[(0.7, 1.3)] * 3, None)


def test_all_options_off_leave_the_resized_picture():
    # a flip, jitter or erasing that is still on, or a crop of a part, would change with the seed
    whole = transforms.Resize((32, 32), interpolation=InterpolationMode.BICUBIC)(noise(50, 50))
    expected = official_view((32, 32), 32)(whole)
    views: list[Tensor] = []
    for seed in range(10):
        seed_all(seed)
        views.append(finished(make_view(**OFF), noise(50, 50)))
    assert all(torch.equal(view, expected) for view in views)


def test_smallest_crop_bounds_the_area_of_all_crops():
    crop_op = make_view(crop_min_scale=0.5).steps[0].args[0]
    seed_all(0)
    areas = [np.prod(crop_op.get_params(noise(100, 100), crop_op.scale, crop_op.ratio)[2:]) for _ in range(200)]
    assert min(areas) == pytest.approx(5000, abs=300)


# ---- DeiT III ----


def official_three_augment(image: Image.Image) -> Image.Image:
    """Official augment.py, with the random numbers in the order of torchvision's RandomChoice."""
    kind = random.choices(["grey", "solarize", "blur"])[0]
    if kind == "grey":
        return image.convert("L").convert("RGB")
    if kind == "solarize":
        return ImageOps.solarize(image)
    return image.filter(ImageFilter.GaussianBlur(radius=random.uniform(0.1, 2.0)))


def test_three_augment_is_greyscale_solarisation_or_blur_each_a_third_of_the_time():
    augment, image = three_augment(), noise(8, 9)
    kinds: Counter = Counter()
    grey, solarized = np.asarray(image.convert("L").convert("RGB")), np.asarray(ImageOps.solarize(image))
    for seed in range(1500):
        random.seed(seed)
        expected = np.asarray(official_three_augment(image))
        random.seed(seed)
        drawn = np.asarray(augment(image))
        assert np.array_equal(drawn, expected), seed
        kinds[np.array_equal(drawn, grey), np.array_equal(drawn, solarized)] += 1
    assert [kinds[kind] / 1500 for kind in ((True, False), (False, True), (False, False))] == pytest.approx(
        [1 / 3] * 3, abs=0.04
    )


def test_timms_three_operations_are_not_those_of_deit_iii():
    # the reason why `3-augment` is not a policy of timm: no magnitude gives DeiT III's solarisation and greyscale
    image = noise(8, 9)
    grey, solarized = image.convert("L").convert("RGB"), ImageOps.solarize(image)

    def agree(magnitude: int) -> tuple[bool, bool]:
        policy = rand_augment_transform(f"rand-m{magnitude}-n1-p1-t3a-inc1", {"img_mean": (0, 0, 0)})
        ops = {op.name: op for op in policy.ops}
        assert set(ops) == {"SolarizeIncreasing", "Desaturate", "GaussianBlur"}
        assert np.array_equal(ops["GaussianBlur"](image), ops["GaussianBlur"](image))  # the radius does not vary
        return np.array_equal(ops["SolarizeIncreasing"](image), solarized), np.array_equal(
            ops["Desaturate"](image), grey
        )

    assert [agree(magnitude) for magnitude in (5, 10)] == [(True, False), (False, True)]
    assert not any(agree(magnitude) == (True, True) for magnitude in range(11))


@pytest.mark.parametrize("crop_mode", ["random_resized", "simple"])
def test_view_of_deit_iii_equals_its_parts_under_the_same_seeds(crop_mode: str):
    # fails if jitter is off with 3-augment, or comes before it
    crops = {
        "random_resized": [RandomResizedCropAndInterpolation((32, 32), interpolation="bicubic")],
        "simple": [
            transforms.Resize(32, interpolation=InterpolationMode.BICUBIC),
            transforms.RandomCrop(32, padding=4, padding_mode="reflect"),
        ],
    }
    parts = transforms.Compose(
        [
            *crops[crop_mode],
            transforms.RandomHorizontalFlip(),
            official_three_augment,
            transforms.ColorJitter(0.3, 0.3, 0.3),
            transforms.ToTensor(),
            transforms.Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        ]
    )
    view = make_view(random_augment="3-augment", crop_mode=crop_mode, random_erase_prob=0.0)
    views = []
    for seed in range(30):
        with seeded(seed):
            expected = parts(noise(60, 50))
        with seeded(seed):
            views.append(finished(view, noise(60, 50)))
        assert torch.equal(views[-1], expected), seed
    assert not torch.equal(views[0], views[1])


def test_simple_crop_takes_every_place_of_the_reflected_picture_as_often():
    image = noise(16, 16)
    padded = np.pad(np.asarray(image), ((4, 4), (4, 4), (0, 0)), mode="reflect")
    places = {padded[y : y + 16, x : x + 16].tobytes(): (y, x) for y in range(9) for x in range(9)}
    crop_image = transforms.Compose(simple_crop((16, 16)))
    seed_all(0)
    counts = Counter(places[crop_image(image).tobytes()] for _ in range(4050))
    assert len(counts) == 81
    assert max(counts.values()) < 50 + 5 * 50**0.5


@pytest.mark.parametrize(
    ("size", "shape", "expected"),
    [
        ((32, 32), (50, 100), (32, 64)),
        ((32, 32), (100, 50), (64, 32)),
        ((32, 32), (8, 16), (32, 64)),
        ((32, 48), (60, 60), (48, 48)),
        ((32, 48), (40, 120), (32, 96)),
        ((48, 32), (100, 50), (64, 32)),
    ],
)
def test_simple_crop_covers_its_size_and_keeps_the_shape_of_things(size, shape, expected: tuple[int, int]):
    # fails if the image is squashed, or if the wrong side is resized to cover the crop
    *resize_steps, crop_op = simple_crop(size)
    for image in (noise(*shape), pil_to_tensor(noise(*shape))):
        resized = transforms.Compose(resize_steps)(image)
        assert resized.size == expected[::-1]
        assert crop_op(resized).size == size[::-1]
