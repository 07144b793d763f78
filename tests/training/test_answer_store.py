"""Stored answers of a teacher: trainings with them equal trainings with the teacher, and other stores are refused."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import PIL.Image
import pytest
import torch
from support.models import labels

from deit_hf import DeiTConfig, DeiTForImageClassification, DistillationArguments
from deit_hf.data.mixing import Mixing, mix_targets
from deit_hf.data.sampling import ViewKey
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.data.transforms import TrainingView
from deit_hf.distillation import answer_format
from deit_hf.distillation.teacher import Teacher
from deit_hf.model.arguments import ModelArguments
from deit_hf.model.image_processing_deit import make_processor
from deit_hf.reliability.checkpoints import find_checkpoint, remembered_places
from deit_hf.training import answer_filling
from deit_hf.training.answer_filling import store_answers
from deit_hf.training.answer_store import StoredAnswers
from deit_hf.training.run import make_trainer, train

CLASSES = ["ant", "bee", "cat"]
SIZES = {"patch_size": 8, "hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 3, "intermediate_size": 24}
VARIANT = "deit_tiny_distilled_patch16_224"
BASE = {
    "distillation_type": "hard",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 10,
    "gradient_accumulation_steps": 2,
    "data_seed": 3,
    "learning_rate": 1e-3,
    "warmup_epochs": 0,
    "logging_steps": 1,
    "save_strategy": "no",
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}  # 150 images, 140 views in an epoch: two blocks and a short one


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """Images, a teacher and another one, and a store of two epochs."""
    folder = tmp_path_factory.mktemp("answers")
    generator = np.random.default_rng(0)
    for part, number in (("train", 50), ("val", 4)):
        for name in CLASSES:
            (folder / "images" / part / name).mkdir(parents=True)
            for i in range(number):
                pixels = generator.integers(0, 256, (22, 26, 3), dtype=np.uint8)
                PIL.Image.fromarray(pixels).save(folder / "images" / part / name / f"{i}.{'jpg' if i % 2 else 'png'}")
    for seed, name in enumerate(("teacher", "other")):
        torch.manual_seed(seed)
        config = DeiTConfig(image_size=24, **SIZES, **labels(CLASSES), use_distillation_token=False)
        config.initializer_range = 0.5
        DeiTForImageClassification(config).save_pretrained(folder / name)
        make_processor(24).save_pretrained(folder / name)
    rows = datasets.load_dataset("imagefolder", data_dir=str(folder / "images"), cache_dir=str(folder / "cache"))
    for part in ("train", "validation"):
        shards = 3 if part == "train" else 1
        for i in range(shards):
            path = folder / "shards" / f"{part}-{i:05d}-of-{shards:05d}.parquet"
            rows[part].shuffle(seed=0).shard(shards, i).to_parquet(path)
    store(folder)
    return folder


def options(folder: Path, **given) -> tuple[ModelArguments, DataArguments, DistillationArguments]:
    """The options of a training; those of the model and the data are given by name, too."""
    model = {"variant": VARIANT, "image_size": 16, "config_overrides": SIZES}
    model["teacher_model_name_or_path"] = str(folder / "teacher")
    model |= {name: given.pop(name) for name in ("teacher_model_name_or_path", "config_overrides") if name in given}
    data = {
        name: given.pop(name)
        for name in ("streaming", "dataset_name", "max_train_samples", "max_eval_samples")
        if name in given
    }
    data = data if "dataset_name" in data else {"dataset_name": str(folder / "images"), **data}
    given.setdefault("output_dir", str(folder / "unused"))
    return ModelArguments(**model), DataArguments(**data), DistillationArguments(**{**BASE, **given})


def store(folder: Path, name: str = "store", top_k: int | None = None, **given) -> Path:
    return store_answers(*options(folder, teacher_cache=str(folder / name), **given), top_k=top_k)


def weights(folder: Path, tmp_path: Path, name: str, **given) -> dict[str, torch.Tensor]:
    """The weights after a training, whose directory has nothing but the log and the checkpoints."""
    trainer, _ = make_trainer(*options(folder, output_dir=str(tmp_path / name), **given), None)
    checkpoint = find_checkpoint(trainer.args)
    trainer.same_run.settle(*remembered_places(trainer.args, checkpoint))
    trainer.train(resume_from_checkpoint=checkpoint)
    trainer.save_state()
    trainer.release_workers()
    return trainer.model.state_dict()


def equal(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def losses(tmp_path: Path, name: str) -> list[float]:
    log = json.loads((tmp_path / name / "trainer_state.json").read_text())["log_history"]
    return [entry["loss_distillation"] for entry in log if "loss_distillation" in entry]


def stored(folder: Path, name: str = "store") -> dict:
    return {"teacher_cache": str(folder / name), "teacher_model_name_or_path": None}


# ---- equal bits ----


@pytest.mark.parametrize(
    "given",
    [
        {"seed": 7, "learning_rate": 3e-3, "config_overrides": {**SIZES, "num_hidden_layers": 2}},
        {"per_device_train_batch_size": 20, "gradient_accumulation_steps": 1, "label_smoothing": 0.0},
        {"dataloader_num_workers": 1, "ema_decay": 0.9, "num_train_epochs": 1},
    ],
    ids=["seed, rate and student", "local batch", "workers, averages and fewer epochs"],
)
def test_one_store_gives_many_trainings_the_bits_of_the_teacher(place: Path, tmp_path: Path, given: dict):
    assert equal(
        weights(place, tmp_path, "online", **given), weights(place, tmp_path, "stored", **given, **stored(place))
    )


def test_stream_gives_the_same_bits(place: Path, tmp_path: Path):
    given = {"streaming": True, "shuffle_buffer_size": 16, "dataset_name": str(place / "shards")}
    store(place, "stream", **given)
    online = weights(place, tmp_path, "online", **given)
    assert equal(online, weights(place, tmp_path, "stored", **given, **stored(place, "stream")))


def test_resumed_training_has_the_bits_of_the_teacher(place: Path, tmp_path: Path):
    """Resumes in the middle of a block, and with the teacher instead of the store or the other way round."""
    steps = {"save_strategy": "steps", "save_steps": 1, "num_train_epochs": 1}
    online = weights(place, tmp_path, "whole", **steps)
    for name, then in (("stored", stored(place)), ("teacher", {})):
        first = weights(place, tmp_path, name, **steps, **({} if then else stored(place)))
        assert equal(first, online)
        for path in (tmp_path / name).iterdir():
            if path.name != "checkpoint-2":
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert equal(weights(place, tmp_path, name, **steps, **then), online)


def test_views_of_a_few_epochs_are_repeated(place: Path, tmp_path: Path):
    """Three epochs with the views of two need a store of two."""
    given = {"num_train_epochs": 3, "teacher_cache_epochs": 2}
    online = weights(place, tmp_path, "online", **given)
    assert equal(online, weights(place, tmp_path, "stored", **given, **stored(place)))
    assert not equal(online, weights(place, tmp_path, "all", num_train_epochs=3))
    with pytest.raises(FileNotFoundError, match=r"has no answers for epoch 2 \(finished epochs, from 0: 0 to 1\)"):
        train(*options(place, output_dir=str(tmp_path / "more"), num_train_epochs=3, **stored(place)))


def test_soft_answers_of_all_classes_are_nearly_those_of_the_teacher(place: Path, tmp_path: Path):
    given = {"distillation_type": "soft", "distillation_temperature": 2.0}
    store(place, "soft", **given)
    weights(place, tmp_path, "online", **given)
    weights(place, tmp_path, "stored", **given, **stored(place, "soft"))
    np.testing.assert_allclose(losses(tmp_path, "stored"), losses(tmp_path, "online"), rtol=2e-3)


def test_truncated_soft_answers_are_a_lower_bound(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(answer_format, "MAX_FULL_CLASSES", 1)
    given = {"distillation_type": "soft", "num_train_epochs": 1}
    store(place, "one", top_k=1, **given)
    weights(place, tmp_path, "online", **given)
    weights(place, tmp_path, "stored", **given, **stored(place, "one"))
    assert 0 < losses(tmp_path, "stored")[0] < losses(tmp_path, "online")[0]


# ---- what the run says ----


@pytest.mark.parametrize("mixing", [None, Mixing(0.8, 0.0, switch_prob=0.0, block_size=4, seed=1)])
def test_fit_of_stored_answers_counts_each_image_once(mixing: Mixing | None):
    """Fails if the repeats of an image narrow the interval as if they were independent."""
    keys: Any = [ViewKey(0, place, place // 3, place % 3) for place in range(12)]  # repeated augmentation
    views: Any = SimpleNamespace(images=SimpleNamespace(labels=np.array([0, 1, 2, 3])))
    store = SimpleNamespace(rows=lambda epoch, places: torch.zeros(len(places), dtype=torch.long))
    stored_answers: Any = SimpleNamespace(store=store, evaluation=None, _view_size=(8, 8))
    fit = StoredAnswers.fit(stored_answers, views, keys, mixing)
    counted = fit.views if mixing is None else fit.mixed
    assert counted is not None
    assert counted.num_images == 4
    assert mixing is not None or counted.num_correct == 1


def test_run_names_the_teacher_and_its_accuracy(place: Path, tmp_path: Path):
    train(*options(place, output_dir=str(tmp_path / "run"), teacher_cache_epochs=1, **stored(place)))
    facts = json.loads((place / "store" / "store.json").read_text())["facts"]
    assert 0 <= facts["teacher_top1"] <= 1
    line = next(line for line in (tmp_path / "run" / "recipe.yaml").read_text().splitlines() if "teacher  " in line)
    assert "  teacher at 24x24 pixels, answers" in line  # no path of the machine that made the answers
    assert f"answers stored in {place}/store" in line
    assert f"top-1 on the evaluation split {100 * facts['teacher_top1']:.2f}" in line
    assert "those of 1 epoch, repeated" in (tmp_path / "run" / "recipe.yaml").read_text()
    assert "teacher: teacher" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.parametrize("mixing", [{}, {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}])
def test_stored_answers_are_compared_with_the_classes_of_their_views(
    place: Path, tmp_path: Path, mixing: dict, capsys
):
    """Fails if an answer is compared with the class of another view, or of the smaller share of a mix.

    Of several views of an image, the first one counts.
    """
    name = "unmixed" if mixing else "store"
    if mixing:
        store(place, name, **mixing)
        assert "the teacher on training views: top-1 " in capsys.readouterr().out  # before it fills the store
    trainer, _ = make_trainer(*options(place, output_dir=str(tmp_path), **mixing, **stored(place, name)), None)
    right = num_views = 0
    samples = {key.position: key.sample for key in trainer.make_view_sampler()}
    firsts = {sample: position for position, sample in sorted(samples.items(), reverse=True)}
    for batch in trainer.get_train_dataloader():  # an epoch has fewer views than are measured at most
        shares, classes = mix_targets(
            batch["labels"], batch.get("mix_ratios"), num_classes=len(CLASSES), smoothing=0.0
        ).max(dim=1)
        answers, counts = trainer.answers.store.rows(0, batch["positions"]), shares != 0.5
        counts &= torch.tensor([position in firsts.values() for position in batch["positions"]])
        right, num_views = right + int((answers == classes)[counts].sum()), num_views + int(counts.sum())
    fit = trainer.measure_fit()
    found, other = (fit.views, fit.mixed) if mixing else (fit.mixed, fit.views)
    assert found == (right, num_views)
    assert other is None
    assert 0 < right < num_views
    assert fit.evaluation == (round(12 * trainer.answers.store.facts["teacher_top1"]), 12)
    assert ("are not stored" in fit.in_words()) == (not mixing)


def test_named_teacher_is_compared(place: Path, tmp_path: Path):
    cache = {"teacher_cache": str(place / "store")}
    assert equal(weights(place, tmp_path, "named", **cache), weights(place, tmp_path, "unnamed", **stored(place)))
    other = {"teacher_model_name_or_path": str(place / "other"), **cache}
    with pytest.raises(ValueError, match=r"of another teacher .*`teacher` \(weights .*, now "):
        train(*options(place, output_dir=str(tmp_path / "other"), **other))


def test_accuracy_on_other_evaluation_data_is_not_shown(place: Path, tmp_path: Path):
    trainer, _ = make_trainer(*options(place, output_dir=str(tmp_path / "run"), **stored(place)), None)
    assert " % (12 images, " in trainer.answers.in_words
    given = {"max_eval_samples": 5, **stored(place)}
    trainer, _ = make_trainer(*options(place, output_dir=str(tmp_path / "run"), **given), None)
    assert trainer.answers.in_words.endswith("top-1 on the evaluation split not measured")


def test_missing_teacher_is_not_needed(place: Path, tmp_path: Path):
    given = {"teacher_cache": str(place / "store"), "teacher_model_name_or_path": str(tmp_path / "gone")}
    with pytest.raises(OSError, match="its answers are stored, so it is not needed: --teacher none"):
        train(*options(place, output_dir=str(tmp_path / "run"), **given))


# ---- stores that do not fit ----


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"data_seed": 4}, "`data_seed` was 3 and is 4"),
        ({"gradient_accumulation_steps": 1}, "`step_size` was 20 and is 10"),
        ({"crop_min_scale": 0.5}, "`crop_min_scale` was 0.08 and is 0.5"),
        ({"horizontal_flip_prob": 0.0}, "`horizontal_flip_prob`"),
        ({"random_augment": "none"}, "`random_augment`"),
        ({"random_erase_prob": 0.0}, "`random_erase_prob`"),
        ({"crop_mode": "simple"}, "`crop_mode`"),
        ({"mixup_alpha": 0.0}, r"`mixing` \(mixup_alpha 0.8, now 0.0"),
        ({"mixup_switch_prob": 0.1}, "mixup_switch_prob 0.5, now 0.1"),
        ({"repeated_augmentation": 1}, "`repeated_augmentation` was 3 and is 1"),
        ({"on_bad_image": "skip"}, "`on_bad_image` was error and is skip"),
        ({"distillation_type": "soft"}, "`distillation_type` was hard and is soft"),
        ({"max_train_samples": 141}, r"`data` \(rows 150, now 141"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_store_of_other_views_is_refused(place: Path, tmp_path: Path, given: dict, named: str):
    with pytest.raises(ValueError, match=f"are to other views, or of another teacher.*{named}"):
        train(*options(place, output_dir=str(tmp_path / "run"), **given, **stored(place)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("given", [{"color_jitter": 0.1}, {"mixup_alpha": 0.0, "mixup_switch_prob": 0.5}])
def test_options_without_effect_on_views_do_not_count(place: Path, tmp_path: Path, given: dict):
    if "color_jitter" in given:
        train(*options(place, output_dir=str(tmp_path / "run"), num_train_epochs=1, **given, **stored(place)))
    else:
        store(place, "cutmix", num_train_epochs=1, **given)
        given["mixup_switch_prob"] = 0.9
        store(place, "cutmix", num_train_epochs=1, **given)


def test_other_pixels_are_found_in_the_first_step(place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """As after an upgrade of a library: one level of one pixel of one view."""
    given = {"per_device_train_batch_size": 64, "gradient_accumulation_steps": 2, "num_train_epochs": 1}
    store(place, "large", **given)
    make, count = TrainingView.__call__, iter(range(10**6))

    def changed(self, image):
        pixels, erasure = make(self, image)
        pixels[0, 0, 0] ^= next(count) == 37
        return pixels, erasure

    monkeypatch.setattr(TrainingView, "__call__", changed)
    with pytest.raises(ValueError, match="views at positions 0 to 63 of epoch 0 are not those .*pillow"):
        train(*options(place, output_dir=str(tmp_path / "run"), **given, **stored(place, "large")))


def test_rows_that_are_assigned_later_are_compared(place: Path, tmp_path: Path):
    given = {"output_dir": str(tmp_path / "run"), "num_train_epochs": 1}
    trainer, _ = make_trainer(*options(place, teacher_cache=str(place / "store"), **given), None)
    rows = datasets.load_dataset("imagefolder", data_dir=str(place / "images"), cache_dir=str(place / "cache"))[
        "train"
    ]
    trainer.train_dataset = rows.select(range(3, 150))
    with pytest.raises(ValueError, match=r"are to other views.*`data` \(rows 150, now 147"):
        trainer.train()
    # the teacher, which was only compared, is there again without the store
    trainer.args.teacher_cache = None
    trainer.take_options()
    assert trainer.answers is None
    assert trainer.teacher is not None


def test_teacher_whose_classes_have_other_names_is_refused(place: Path, tmp_path: Path):
    shutil.copytree(place / "teacher", tmp_path / "teacher")
    path = tmp_path / "teacher" / "config.json"
    config = json.loads(path.read_text())
    config["id2label"] = {"0": "bee", "1": "ant", "2": "cat"}
    config["label2id"] = {"bee": 0, "ant": 1, "cat": 2}
    path.write_text(json.dumps(config))
    given = {"teacher_cache": str(place / "store"), "teacher_model_name_or_path": str(tmp_path / "teacher")}
    with pytest.raises(ValueError, match="`teacher_labels` was None and is 1, 0, 2"):
        train(*options(place, output_dir=str(tmp_path / "run"), **given))
    with pytest.raises(ValueError, match="`teacher_labels` was None and is 1, 0, 2"):
        store_answers(*options(place, **given))


def test_other_precision_is_refused_without_the_teacher_too(place: Path, tmp_path: Path):
    with pytest.raises(ValueError, match="`teacher_precision` was float32 and is bf16"):
        train(*options(place, output_dir=str(tmp_path / "run"), bf16=True, **stored(place)))


def test_filling_does_not_call_a_damaged_store_finished(place: Path, tmp_path: Path):
    shutil.copytree(place / "store", tmp_path / "store")
    path = tmp_path / "store" / "epoch-0001.safetensors"
    path.write_bytes(path.read_bytes()[:-3] + b"abc")
    with pytest.raises(ValueError, match="epoch-0001.safetensors` is damaged in the block"):
        store_answers(*options(place, teacher_cache=str(tmp_path / "store")))


def test_filling_begins_where_store_json_could_not_be_written(place: Path, tmp_path: Path):
    (tmp_path / "new").mkdir()
    (tmp_path / "new" / ".unfinished-store.json").write_text("{")
    store_answers(*options(place, teacher_cache=str(tmp_path / "new"), num_train_epochs=1))
    assert {"store.json", "epoch-0000.safetensors"} <= set(files(tmp_path / "new"))


@pytest.mark.parametrize("byte", [0.3, 0.9])
def test_flipped_byte_is_found(place: Path, tmp_path: Path, byte: float):
    shutil.copytree(place / "store", tmp_path / "store")
    path = tmp_path / "store" / "epoch-0001.safetensors"
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start + int(byte * (len(content) - start))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"epoch-0001.safetensors` is damaged in the block|are not those"):
        train(*options(place, output_dir=str(tmp_path / "run"), **stored(tmp_path)))


def test_missing_and_half_stores_are_refused(place: Path, tmp_path: Path):
    def refused(error: type[Exception], words: str, **given):
        with pytest.raises(error, match=words):
            train(*options(place, output_dir=str(tmp_path / "run"), **given))

    refused(FileNotFoundError, "no directory `.*`; name a store", **stored(tmp_path, "nothing"))
    refused(FileNotFoundError, "has no store.json", **stored(place, "images"))
    shutil.copytree(place / "store", tmp_path / "store")
    (tmp_path / "store" / "epoch-0000.safetensors").unlink()
    refused(FileNotFoundError, "has no answers for epoch 0", **stored(tmp_path))
    path = tmp_path / "store" / "epoch-0001.safetensors"
    (tmp_path / "store" / "epoch-0000.safetensors").write_bytes(path.read_bytes())
    refused(ValueError, "is not of this store and epoch: its epoch is 1, not 0", **stored(tmp_path))
    path.write_bytes(path.read_bytes()[:-5])
    (tmp_path / "store" / "epoch-0000.safetensors").write_bytes((place / "store/epoch-0000.safetensors").read_bytes())
    refused(ValueError, "epoch-0001.safetensors` is truncated or damaged", **stored(tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (
            {"distillation_type": "none", "teacher_cache": "a"},
            "`teacher_cache` is 'a', but `distillation_type` is 'none'",
        ),
        ({"teacher_cache_epochs": 0}, "`teacher_cache_epochs` is 0, but must be 1 or more"),
        ({"teacher_cache": "a", "output_dir": "a/"}, "`teacher_cache` and `output_dir` are both a/"),
    ],
)
def test_options_that_contradict_each_other_are_refused(given: dict, words: str):
    with pytest.raises(ValueError, match=words):
        DistillationArguments(**{**BASE, **given})


# ---- filling ----


def count_answers(monkeypatch: pytest.MonkeyPatch, *, stops_after: int | None = None) -> list[int]:
    """The sizes of the batches that the teacher answers from now on."""
    sizes: list[int] = []
    answer = Teacher.forward

    def counted(self, pixel_values):
        if len(pixel_values) > 1:  # not the trial with an empty image
            sizes.append(len(pixel_values))
            if stops_after is not None and len(sizes) > stops_after:
                raise KeyboardInterrupt
        return answer(self, pixel_values)

    monkeypatch.setattr(Teacher, "forward", counted)
    return sizes


def files(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if not path.name.startswith(".")}


def test_stopped_filling_continues_with_the_missing_blocks(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(answer_filling._Filling, "_speeds", lambda *_: (1.0, 1.0))
    with monkeypatch.context() as patch:
        count_answers(patch, stops_after=14 + 8)  # in the second block of the second epoch
        with pytest.raises(KeyboardInterrupt):
            store(place, "stopped", evaluate_teacher=False)
    names = set(files(place / "stopped"))
    assert {"epoch-0001.unfinished.safetensors", "epoch-0001.blocks"} <= names, names
    with monkeypatch.context() as patch:
        sizes = count_answers(patch)
        store(place, "stopped")
    assert 0 < sum(sizes) < 140
    whole = files(place / "store")
    assert {name: content for name, content in files(place / "stopped").items() if name != "store.json"} == {
        name: content for name, content in whole.items() if name != "store.json"
    }


def test_finished_store_is_compared_and_kept(place: Path, capsys: pytest.CaptureFixture):
    before = files(place / "store")
    store(place)
    printed = capsys.readouterr().out
    machine = "device cpu, batch size 10, layout contiguous"
    assert f"answered 140 views again ({machine}; stored with {machine})" in printed
    assert "140 of 140 answers equal the stored ones" in printed
    assert files(place / "store") == before


def test_more_epochs_are_added(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    shutil.copytree(place / "store", place / "longer")
    store(place, "longer", num_train_epochs=3)
    assert sorted(files(place / "longer")) == [*(f"epoch-000{i}.safetensors" for i in range(3)), "store.json"]
    printed = capsys.readouterr().out
    assert "140 views to answer in 1 epochs of 140 (hard answers)" in printed
    assert "the teacher answers " in printed
    assert "the store saves time from " in printed


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"teacher_model_name_or_path": None}, "no teacher is named"),
        ({"teacher_cache": None}, "no directory is named"),
        ({"teacher_cache": "images"}, r"contains other files \(train"),
        ({"top_k": 5}, "`top_k` is 5, but `distillation_type` is 'hard'"),
        ({"teacher_model_name_or_path": "other"}, r"`teacher` \(weights"),
        ({"data_seed": 4}, "`data_seed` was 3 and is 4"),
    ],
    ids=["teacher", "directory", "other files", "top_k", "other teacher", "other views"],
)
def test_filling_is_refused_before_anything_is_written(place: Path, given: dict, words: str):
    before = files(place / "store")
    given = {name: str(place / value) if isinstance(value, str) else value for name, value in given.items()}
    top_k = given.pop("top_k", None)
    with pytest.raises(ValueError, match=words):
        store_answers(*options(place, **{"teacher_cache": str(place / "store"), **given}), top_k=top_k)
    assert files(place / "store") == before
