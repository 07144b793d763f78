"""Streams: each row is used once; views do not depend on the number of workers and processes; resume is exact."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
import yaml
from accelerate import skip_first_batches
from accelerate.data_loader import BatchSamplerShard
from support.patience import PATIENCE
from torch.utils.data import BatchSampler, DataLoader

from deit_hf import DeiTForImageClassificationWithTeacher, DistillationArguments, DistillationTrainer
from deit_hf.data.shuffling import deal_shards, read_ahead, shuffled, take_turns
from deit_hf.data.sources.shards import ShardedRows
from deit_hf.data.streaming import ImageStream, StreamKey, StreamSampler, StreamViews

ROOT = Path(__file__).parents[2]
COLUMNS = {"image_column_name": "image", "label_column_name": "label"}
LENGTHS = [7, 9, 5, 8, 6]  # not multiples of any batch or step size
NO_IMAGE = {"bytes": b"not an image", "path": "x.png"}


def rows_of(
    lengths: list[int], opened: list[int] | None = None, bad: Collection[int] = ()
) -> datasets.IterableDataset:
    """Shards of grey images with one level each.

    Args:
        lengths: rows of each shard.
        opened: receives the shards that are opened.
        bad: rows of each shard whose image cannot be decoded.
    """

    def generate(shards: list[int]) -> Iterator[dict]:
        for shard in shards:
            if opened is not None:
                opened.append(shard)
            for number in range(lengths[shard]):
                level = 20 * shard + number
                image = np.full((8, 8, 3), level, np.uint8)
                yield {"image": NO_IMAGE if number in bad else image, "label": level % 5}

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list("abcde"))})
    shards = {"shards": list(range(len(lengths)))}
    return datasets.IterableDataset.from_generator(generate, features=features, gen_kwargs=shards)


def stream_of(
    lengths: list[int] = LENGTHS,
    *,
    known: bool = True,
    num_images: int | None = None,
    opened: list[int] | None = None,
    bad: Collection[int] = (),
) -> ImageStream:
    sharded = ShardedRows(rows_of(lengths, opened, bad), lengths if known else None)
    return ImageStream(sharded, num_images=sum(lengths) if num_images is None else num_images, **COLUMNS)


def sampler_of(stream: ImageStream, *, process: int = 0, num_processes: int = 1, epoch: int = 0, **options: int):
    options = {"num_streams": 1, "buffer_size": 6, "batch_size": 2, "step_size": 4, "num_repeats": 1, **options}
    sampler = StreamSampler(stream, process_index=process, num_processes=num_processes, seed=0, **options)
    sampler.set_epoch(epoch)
    return sampler


def batches_of(sampler: StreamSampler) -> list[list[StreamKey]]:
    """The batches that Accelerate gives this sampler's process."""
    batches = BatchSampler(sampler, sampler.batch_size, drop_last=False)
    return list(BatchSamplerShard(batches, sampler.num_processes, sampler.process_index))


def samples(keys: list[StreamKey]) -> list[int]:
    return [key.sample for key in keys]


@pytest.mark.parametrize("num_streams", [1, 2])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize(("lengths", "num_processes"), [(LENGTHS, n) for n in (1, 2, 3, 4)] + [([9, 16], 4)])
def test_processes_share_out_every_row_once(lengths, num_processes: int, num_streams: int, known: bool):
    stream = stream_of(lengths, known=known, num_images=None if known else 2 * min(sum(lengths[i::2]) for i in (0, 1)))
    options = {"num_processes": num_processes, "step_size": 2 * num_processes, "num_streams": num_streams}
    shares = [batches_of(sampler_of(stream, process=p, **options)) for p in range(num_processes)]
    assert len({len(share) for share in shares}) == 1
    seen = [key for share in shares for batch in share for key in batch]
    assert all(key.row is not None and key.row.sample == key.sample for key in seen)
    assert max(Counter(samples(seen)).values()) == 1
    assert sorted(key.position for key in seen) == list(range(len(seen)))
    if num_streams == 1:  # only an incomplete step is left out
        assert len(seen) == stream.num_images // (2 * num_processes) * 2 * num_processes


@pytest.mark.parametrize("num_streams", [1, 2, 4])
def test_order_does_not_depend_on_how_a_step_is_cut(num_streams: int):
    orders = []
    for num_processes, batch_size in ((1, 8), (2, 4), (2, 2), (4, 2)):
        options = {"num_processes": num_processes, "batch_size": batch_size, "num_streams": num_streams}
        samplers = [sampler_of(stream_of(), process=p, step_size=8, **options) for p in range(num_processes)]
        keys = [key for sampler in samplers for batch in batches_of(sampler) for key in batch]
        orders.append(sorted((key.position, key.sample, key.repeat) for key in keys))
    assert orders[0] == orders[1] == orders[2] == orders[3]
    assert len(orders[0]) in (24, 32)


def test_sample_is_the_rows_place_in_its_shard():
    keys = list(sampler_of(stream_of(), step_size=35))
    for key in keys:
        assert key.sample == key.row.shard * 2**32 + key.row.number
        assert key.row.label == (20 * key.row.shard + key.row.number) % 5
    assert {(key.row.shard, key.row.number) for key in keys} == {
        (shard, number) for shard, length in enumerate(LENGTHS) for number in range(length)
    }


def test_processes_with_streams_of_their_own_open_no_other_shards():
    opened: list[list[int]] = [[], []]
    for process in (0, 1):
        sampler = sampler_of(stream_of(opened=opened[process]), process=process, num_processes=2, num_streams=2)
        assert len(batches_of(sampler)) == len(sampler) // 4
    assert sorted(opened[0] + opened[1]) == [0, 1, 2, 3, 4]


def test_epochs_have_orders_of_their_own_that_anyone_can_repeat():
    orders = [samples(list(sampler_of(stream_of(), epoch=epoch, step_size=35))) for epoch in (0, 1, 0)]
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[0]) == sorted(orders[1])
    # the first rows are from several shards
    assert len({sample >> 32 for sample in orders[0][:5]}) > 2


def test_repeats_of_a_row_share_a_step_and_are_no_neighbours():
    sampler = sampler_of(stream_of(), step_size=12, num_repeats=3, num_streams=2)
    keys = list(sampler)
    assert len(keys) == len(sampler) == 24
    assert len({key.sample for key in keys}) == sampler.num_unique_images == 8
    for first in range(0, 24, 6):  # the part of a stream in a step: two rows, three views each
        part = keys[first : first + 6]
        assert [key.repeat for key in part] == [0, 0, 1, 1, 2, 2]
        assert samples(part[:2]) == samples(part[2:4]) == samples(part[4:])


def test_repeats_that_do_not_fit_into_a_step_go_on_in_the_next():
    keys = list(sampler_of(stream_of(), step_size=8, num_repeats=3))
    counts = Counter(samples(keys))
    assert sorted(counts.values())[1:] == [3] * (len(counts) - 1)
    assert set(Counter((key.sample, key.repeat) for key in keys).values()) == {1}


def test_small_steps_take_two_rows_in_turn():
    # with all three views of a row in a step of four, two of them would be mixed with each other
    sampler = sampler_of(stream_of(), step_size=4, num_repeats=3)
    keys = list(sampler)
    a, b, c, d = dict.fromkeys(samples(keys[:12]))
    expected = [(a, 0), (b, 0), (a, 1), (b, 1), (a, 2), (b, 2), (c, 0), (d, 0), (c, 1), (d, 1), (c, 2), (d, 2)]
    assert [(key.sample, key.repeat) for key in keys[:12]] == expected
    assert set(Counter((key.sample, key.repeat) for key in keys).values()) == {1}
    assert len(set(samples(keys))) == sampler.num_unique_images


@pytest.mark.parametrize("num_streams", [1, 2, 3, 4])
def test_no_row_of_a_stream_is_its_own_partner(num_streams: int):
    """The part of a stream in a step may start at an odd position and have fewer or more views than two rows have."""
    for part, num_repeats in itertools.product(range(1, 10), range(1, 5)):
        step_size = part * num_streams
        if step_size % 2:
            continue
        options = {"num_streams": num_streams, "step_size": step_size, "num_repeats": num_repeats}
        sampler = sampler_of(stream_of([20] * num_streams), batch_size=step_size, **options)
        keys = list(sampler)
        assert len({(key.sample, key.repeat) for key in keys}) == len(keys) == len(sampler)
        assert len(set(samples(keys))) == sampler.num_unique_images, options
        assert [i for i in range(0, len(keys), 2) if keys[i].sample == keys[i + 1].sample] == [], options


# ---- views ----


def key_view(image) -> tuple[torch.Tensor, None]:
    """The grey level of the image and a random number."""
    return torch.tensor([image.getpixel((0, 0))[0], torch.rand(()).item()], dtype=torch.float64), None


def loader_of(sampler: StreamSampler, num_workers: int, view: Callable = key_view, **options: bool) -> DataLoader:
    views = StreamViews(sampler.stream, view, seed=0, num_classes=5, **options)
    context = context_of(num_workers)
    workers = {"num_workers": num_workers, "multiprocessing_context": context}
    return DataLoader(views, sampler.batch_size, sampler=sampler, collate_fn=list, drop_last=False, **workers)


def context_of(num_workers: int) -> str | None:
    """Workers are forked: the default of Python 3.14 cannot send them the generators of these tests."""
    return "fork" if num_workers else None


def test_views_do_not_depend_on_workers():
    sampler = sampler_of(stream_of(), num_repeats=2)
    seen = []
    for num_workers in (0, 1, 2):
        rows = [row for batch in loader_of(sampler, num_workers) for row in batch]
        seen.append([(*row["key"], row["labels"], *row["pixels"].tolist()) for row in rows])
    assert seen[0] == seen[1] == seen[2]
    for epoch, _, sample, _, label, level, _ in seen[0]:
        assert (epoch, level, label) == (0, 20 * (sample >> 32) + sample % 2**32, level % 5)
    assert len({row[-1] for row in seen[0]}) == len(seen[0])  # each view has its own random numbers


def with_a_bad_row(position: int, row: dict) -> tuple[ImageStream, StreamKey]:
    """A stream in which `row` replaces the row at a position of the epoch; also returns the key of that position."""
    key = list(sampler_of(stream_of()))[position]

    def replace(old: dict, number: int) -> dict:
        return {**old, **row} if number == sum(LENGTHS[: key.row.shard]) + key.row.number else old

    plain = rows_of(LENGTHS).cast_column("image", datasets.Image(decode=False))
    features = datasets.Features({"image": datasets.Image(decode=False), "label": datasets.Value("int64")})
    changed = [replace(old, number) for number, old in enumerate(plain.cast_column("label", features["label"]))]

    def generate(shards: list[int]) -> Iterator[dict]:
        for shard in shards:
            yield from itertools.islice(changed, sum(LENGTHS[:shard]), sum(LENGTHS[: shard + 1]))

    shards = {"shards": list(range(len(LENGTHS)))}
    rows = datasets.IterableDataset.from_generator(generate, features=features, gen_kwargs=shards)
    names = [f"part-{shard}.tar" for shard in range(len(LENGTHS))]
    return ImageStream(ShardedRows(rows, LENGTHS, names), **COLUMNS), key


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"label": 5}, r"\(x.png\) has label 5, but there are 5 classes, so labels must be in \[0, 4\]"),
        ({"label": -1}, r"\(x.png\) has label -1, but there are 5 classes"),
        ({"label": None}, r"\(x.png\) has label None, but labels must be class indices"),
        ({}, r"\(x.png\) is empty or not in an image format"),
    ],
)
def test_row_that_cannot_be_used_is_named_with_its_shard_and_file(row: dict, message: str):
    stream, key = with_a_bad_row(5, {"image": NO_IMAGE, **row})
    named = f"row {key.row.number} of shard part-{key.row.shard}.tar "
    with pytest.raises(ValueError, match=named + message):
        list(loader_of(sampler_of(stream), num_workers=0))


@pytest.mark.parametrize("num_workers", [0, 2])
def test_skipped_batches_are_not_decoded(num_workers: int):
    stream, _ = with_a_bad_row(5, {"image": NO_IMAGE})
    rest = list(skip_first_batches(loader_of(sampler_of(stream), num_workers), 3))
    expected = list(loader_of(sampler_of(stream_of()), num_workers))[3:]
    assert [[row["key"] for row in batch] for batch in rest] == [[row["key"] for row in batch] for batch in expected]
    with pytest.raises(ValueError, match="x.png"):
        list(skip_first_batches(loader_of(sampler_of(stream), num_workers), 2))


def test_batches_that_are_dealt_in_another_way_are_refused():
    views = StreamViews(stream_of(), key_view, seed=0, num_classes=5)
    other = next(iter(sampler_of(stream_of(), process=1, num_processes=2)))
    with pytest.raises(ValueError, match="leave `split_batches` and `dispatch_batches` out"):
        views[other]


# ---- errors ----


def test_stream_that_ends_too_early_is_an_error_and_not_a_short_epoch():
    sampler = sampler_of(stream_of(known=False, num_images=40))
    with pytest.raises(ValueError, match="stream 0 of 1 ended in step 9 of 10 in an epoch of 40 rows; set `num_train"):
        list(sampler)


def test_shard_with_fewer_rows_than_it_should_have_is_named():
    sharded = ShardedRows(rows_of([3, 3]), [3, 4], ["one", "two"])
    with pytest.raises(ValueError, match="shard two has 3 rows, but should have at least 4; lower"):
        list(sampler_of(ImageStream(sharded, **COLUMNS), step_size=7))


def test_only_the_first_rows_of_a_shard_are_used():
    stream = ImageStream(ShardedRows(rows_of([3, 9]), [2, 4]), **COLUMNS)
    seen = [
        {(key.row.shard, key.row.number) for key in sampler_of(stream, epoch=epoch, step_size=6)} for epoch in (0, 1)
    ]
    assert seen[0] == seen[1] == {(0, 0), (0, 1), (1, 0), (1, 1), (1, 2), (1, 3)}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_streams": 6, "step_size": 12}, "`num_streams` is 6, but the data has 5 shards; lower it"),
        ({"num_streams": 3}, "`num_streams` is 3, which does not divide the 4 views of an optimizer step"),
        ({"step_size": 36}, "the stream has 35 rows in an epoch, too few for one optimizer step of 36 views"),
        ({"step_size": 34, "num_streams": 2}, "too few for one optimizer step of 34 views from 2 streams"),
    ],
)
def test_streams_that_do_not_fit_are_refused_before_anything_is_read(options: dict, message: str):
    lengths = [7, 9, 5, 8, 6] if "34" not in message else [30, 5]
    opened: list[int] = []
    with pytest.raises(ValueError, match=message):
        sampler_of(stream_of(lengths, opened=opened), **options)
    assert opened == []


def test_number_of_rows_is_asked_for_where_nothing_tells_it():
    rows = rows_of(LENGTHS)
    with pytest.raises(ValueError, match="set it with `num_train_samples`"):
        ImageStream(rows, **COLUMNS)
    with pytest.raises(ValueError, match="`num_train_samples` is 36, but the stream has 35 rows"):
        ImageStream(ShardedRows(rows, LENGTHS), num_images=36, **COLUMNS)
    assert ImageStream(ShardedRows(rows, LENGTHS), **COLUMNS).num_images == 35
    assert ImageStream(ShardedRows(rows, LENGTHS), num_images=20, **COLUMNS).num_images == 20
    splits = datasets.SplitDict({"train": datasets.SplitInfo("train", num_examples=33)})
    rows.info.splits = splits
    assert ImageStream(rows, **COLUMNS).num_images == 33


def test_columns_are_checked_before_anything_is_read():
    rows = rows_of(LENGTHS)
    with pytest.raises(ValueError, match="the stream has no column `jpg`, only image, label; name the columns"):
        ImageStream(ShardedRows(rows, LENGTHS), image_column_name="jpg", label_column_name="label")
    with pytest.raises(TypeError, match="column `label` of the stream holds .*string.*, but labels must be class ind"):
        ImageStream(ShardedRows(rows.cast_column("label", datasets.Value("string")), LENGTHS), **COLUMNS)
    with pytest.raises(ValueError, match="the columns of the stream are unknown; add `features`"):
        ImageStream(ShardedRows(rows.map(dict), LENGTHS), **COLUMNS)


# ---- shuffling ----


def test_shards_are_dealt_to_streams_of_about_the_same_length():
    assert deal_shards(5, None, 2) == [[0, 2, 4], [1, 3]]
    dealt = deal_shards(5, [7, 9, 5, 8, 6], 2)
    assert sorted(shard for shards in dealt for shard in shards) == [0, 1, 2, 3, 4]
    assert sorted(sum([7, 9, 5, 8, 6][shard] for shard in shards) for shards in dealt) in ([15, 20], [17, 18])


def test_sources_take_turns_and_give_way_to_the_next():
    sources = (iter(text) for text in ("abc", "", "d", "ef"))
    assert "".join(take_turns(sources, 2)) == "abdcef"


def test_shuffle_yields_all_once_and_reaches_no_further_than_its_buffer():
    order = list(shuffled(iter(range(100)), 10, np.random.default_rng(0)))
    assert sorted(order) == list(range(100))
    assert order != sorted(order)
    assert all(item <= place + 10 for place, item in enumerate(order))
    assert list(shuffled(iter(range(9)), 1, np.random.default_rng(0))) == list(range(9))
    assert sorted(shuffled(iter(range(3)), 10, np.random.default_rng(0))) == [0, 1, 2]


def test_reading_ahead_keeps_order_and_errors():
    def items() -> Iterator[int]:
        yield from range(70)
        raise OSError("the line is dead")

    ahead = read_ahead(items())
    assert list(itertools.islice(ahead, 64)) == list(range(64))
    with pytest.raises(OSError, match="the line is dead"):
        next(ahead)
    assert list(read_ahead(iter(range(70)))) == list(range(70))


# ---- training ----


def train(folder: Path, config, *, resume: bool = False, **options) -> dict[str, torch.Tensor]:
    options = {"max_steps": 7, "per_device_train_batch_size": 8, "repeated_augmentation": 2, **options}
    fixed = {"learning_rate": 1e-3, "warmup_epochs": 0, "report_to": "none", "disable_tqdm": True, "save_steps": 5}
    args = DistillationArguments(str(folder), shuffle_buffer_size=6, **fixed, **options)
    torch.manual_seed(0)
    student = DeiTForImageClassificationWithTeacher(config)
    args.dataloader_multiprocessing_context = context_of(args.dataloader_num_workers)
    trainer = DistillationTrainer(student, args, train_dataset=ShardedRows(rows_of(LENGTHS), LENGTHS))
    trainer.train(resume_from_checkpoint=str(folder / "checkpoint-5") if resume else None)
    return {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}


@pytest.mark.parametrize("num_workers", [0, 2])
def test_resume_in_mid_epoch_gives_the_same_weights(tmp_path: Path, tiny_config, num_workers: int):
    # an epoch has 4 steps, so step 5 is the first step of the second epoch
    options = {"dataloader_num_workers": num_workers}
    whole = train(tmp_path / "run", tiny_config, **options)
    resumed = train(tmp_path / "run", tiny_config, resume=True, **options)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in whole.items())
    other_workers = train(tmp_path / "other", tiny_config, dataloader_num_workers=2 - num_workers)
    assert all(torch.equal(tensor, other_workers[name]) for name, tensor in whole.items())


def test_accumulated_batches_give_the_weights_of_one_large_batch(tmp_path: Path, tiny_config):
    tiny_config.drop_path_rate = 0.0
    options = {"optim": "sgd", "num_streams": 2, "max_steps": 2}
    whole = train(tmp_path / "one", tiny_config, **options)
    options |= {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 4}
    parts = train(tmp_path / "four", tiny_config, **options)
    for name, tensor in whole.items():
        torch.testing.assert_close(parts[name], tensor, rtol=0, atol=1e-6)


def test_evaluation_rows_must_not_be_a_stream(tmp_path: Path, tiny_student):
    with pytest.raises(TypeError, match="IterableDataset, .*only training rows can be a stream"):
        DistillationTrainer(tiny_student, DistillationArguments(str(tmp_path)), eval_dataset=rows_of(LENGTHS))


RECIPE = {
    "variant": "deit_tiny_distilled_patch16_224",
    "image_size": 16,
    "config_overrides": {"patch_size": 8, "hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2},
    "dataset_name": "./shards",
    "streaming": True,
    "shuffle_buffer_size": 8,
    "warmup_epochs": 0,
    "learning_rate": "1e-3",
    "max_steps": 60,
    "save_steps": 3,
    "use_cpu": True,
    "disable_tqdm": True,
}


def start(folder: Path, name: str, num_processes: int, *options: str) -> subprocess.Popen:
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
    command = [sys.executable, *(launch if num_processes > 1 else []), str(ROOT / "scripts" / "train.py")]
    command += [
        "recipe.yaml",
        "--output_dir",
        name,
        "--per_device_train_batch_size",
        str(4 // num_processes),
        *options,
    ]
    return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(process: subprocess.Popen) -> None:
    _, errors = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, errors


def kill_with_children(pid: int) -> None:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(pid, signal.SIGKILL)
    for child in children:
        kill_with_children(int(child))


@pytest.mark.slow
@pytest.mark.parametrize("num_workers", ["0", "2"])
@pytest.mark.parametrize("num_processes", [1, 2])
def test_run_that_was_killed_ends_with_the_same_file(tmp_path: Path, num_processes: int, num_workers: str):
    (tmp_path / "shards").mkdir()
    rows = datasets.Dataset.from_list(list(rows_of(LENGTHS)), features=rows_of(LENGTHS).features)
    for shard, (first, length) in enumerate(zip(np.cumsum([0, *LENGTHS]), LENGTHS, strict=False)):
        part = rows.select(range(first, first + length))
        part.to_parquet(tmp_path / "shards" / f"train-{shard}-of-5.parquet")
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(RECIPE))
    options = ("--dataloader_num_workers", num_workers, "--num_streams", str(num_processes))
    finish(start(tmp_path, "whole", num_processes, *options))
    killed = start(tmp_path, "killed", num_processes, *options)
    deadline = time.monotonic() + PATIENCE
    while not (tmp_path / "killed" / "checkpoint-12" / "trainer_state.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    kill_with_children(killed.pid)
    killed.wait()
    assert not (tmp_path / "killed" / "model.safetensors").exists()
    finish(start(tmp_path, "killed", num_processes, *options))
    ends = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert ends[0] == ends[1]


# ---- bad images ----


def levels_of(rows: list[dict]) -> list[int]:
    return [int(row["pixels"][0]) for row in rows]


@pytest.mark.parametrize("num_workers", [0, 2])
def test_next_good_row_of_the_shard_takes_the_place_of_a_bad_one(num_workers: int):
    """One shard, because torch's own way to split a stream among workers would leave the second one without rows."""
    lengths, bad = [8], (2, 3, 7)  # row 4 replaces rows 2 and 3, row 0 replaces the last one
    keys = list(sampler_of(stream_of(lengths), step_size=8))
    loader = loader_of(sampler_of(stream_of(lengths, bad=bad), step_size=8), num_workers, skip_bad_images=True)
    rows = [row for batch in loader for row in batch]
    expected = [{2: 4, 3: 4, 7: 0}.get(key.sample, key.sample) for key in keys]
    assert [row["key"].sample for row in rows] == levels_of(rows) == expected
    assert [row["key"].position for row in rows] == list(range(8))
    assert [row["labels"] for row in rows] == [number % 5 for number in expected]
    found = {key.sample: [entry["row"] for entry in row["bad_images"]] for key, row in zip(keys, rows, strict=True)}
    assert found == {0: [], 1: [], 2: [2, 3], 3: [3], 4: [], 5: [], 6: [], 7: [7]}


def test_shard_without_any_good_row_is_named():
    stream = stream_of([8, 3], bad=range(3))
    views = StreamViews(stream, key_view, seed=0, num_classes=5, skip_bad_images=True)
    keys = [key for key in sampler_of(stream) if key.row.shard == 1]
    with pytest.raises(ValueError, match="none of 3 images can be decoded; the first: row . of shard 1 "):
        views[keys[0]]


def test_training_on_a_stream_lists_and_counts_its_bad_images(tmp_path, tiny_config):
    def train(name: str, num_workers: int) -> tuple[dict, list[dict], list[torch.Tensor]]:
        args = DistillationArguments(
            str(tmp_path / name),
            on_bad_image="skip",
            repeated_augmentation=1,
            per_device_train_batch_size=4,
            num_train_epochs=2,
            dataloader_num_workers=num_workers,
            dataloader_multiprocessing_context=context_of(num_workers),
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        )
        torch.manual_seed(0)
        student = DeiTForImageClassificationWithTeacher(tiny_config)
        rows = ShardedRows(rows_of(LENGTHS, bad=(1, 4)), LENGTHS, [f"{shard}.parquet" for shard in range(5)])
        trainer = DistillationTrainer(student, args, train_dataset=rows)
        metrics = trainer.train().metrics
        listed = [json.loads(line) for line in (tmp_path / name / "bad_images.jsonl").read_text().splitlines()]
        return metrics, listed, list(student.state_dict().values())

    metrics, listed, weights = train("here", 0)
    places = {(entry["file"], entry["row"]) for entry in listed}
    assert places == {(f"shard {shard}.parquet", row) for shard in range(5) for row in (1, 4)}
    assert metrics["train_bad_images"] == len(listed) == 10
    _, listed_by_workers, weights_of_workers = train("workers", 2)
    assert listed_by_workers == listed
    assert all(torch.equal(*pair) for pair in zip(weights, weights_of_workers, strict=True))
