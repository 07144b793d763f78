"""The Hub token is kept in the options in memory, but in no file, text or error."""

import copy
import dataclasses
import pickle
from pathlib import Path

import pytest
import torch

from deit_hf import DistillationArguments
from deit_hf.data.sources.arguments import DataArguments
from deit_hf.model.arguments import ModelArguments
from deit_hf.training.recipe_file import parse_recipe, write_recipe

TOKEN = "hf_SECRETSECRETSECRETSECRETSECRETSE"
ALL = (ModelArguments, DataArguments, DistillationArguments)


@pytest.fixture
def args(tmp_path: Path) -> DistillationArguments:
    return DistillationArguments(str(tmp_path / "run"), hub_token=TOKEN, report_to="none", seed=7)


def test_no_text_of_the_options_shows_the_token(args: DistillationArguments):
    texts = [
        repr(args),
        str(args),
        f"{args}",
        args.to_json_string(),
        str(args.to_dict()),
        str(args.to_sanitized_dict()),
    ]
    assert [text for text in texts if TOKEN in text] == []
    assert all("seed" in text for text in texts)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, dataclasses.replace])
def test_copies_in_memory_keep_the_token_and_all_else(args: DistillationArguments, duplicate):
    copied = duplicate(args)
    assert copied is not args
    assert copied.hub_token == TOKEN
    assert copied.to_dict() == args.to_dict()
    copied.seed = 8
    assert args.seed == 7


def test_deep_copy_shares_nothing_that_can_change(args: DistillationArguments):
    args.lr_scheduler_kwargs = {"a": [1]}
    both = copy.deepcopy([args, args])
    assert both[0] is both[1]
    both[0].lr_scheduler_kwargs["a"].append(2)
    assert args.lr_scheduler_kwargs == {"a": [1]}


def test_what_goes_to_the_disk_has_no_token(args: DistillationArguments, tmp_path: Path):
    torch.save(args, tmp_path / "training_args.bin")
    write_recipe(tmp_path / "recipe.yaml", args)
    for written in (pickle.dumps(args), *(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())):
        assert TOKEN.encode() not in written
    assert args.hub_token == TOKEN


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--hub_tokn", "SECRET"], "unknown option --hub_tokn; did you mean `hub_token`"),
        (["--hub_tokn=SECRET"], "unknown option --hub_tokn; did you mean `hub_token`"),
        (["RECIPE", "--hub-tokn", "SECRET"], "unknown option --hub-tokn; did you mean `hub_token`"),
        (["RECIPE", "--xyzzy", "SECRET"], "unknown option --xyzzy; see --help for all"),
        (["RECIPE", "--seed", TOKEN], "argument --seed: invalid int value: '<token>'"),
        (["TOKEN_IN_RECIPE"], "has `hub_token`, but recipes are meant to be shared; remove it, and log in with"),
        (["BROKEN_RECIPE"], "is not valid YAML: mapping values are not allowed here in line 2$"),
    ],
)
def test_no_error_of_the_command_line_or_of_a_recipe_quotes_the_token(tmp_path, arguments: list[str], message: str):
    recipes = {
        "RECIPE": "output_dir: x\n",
        "TOKEN_IN_RECIPE": "output_dir: x\nhub_token: SECRET\n",
        "BROKEN_RECIPE": "output_dir: x\nhub_token: SECRET: x\n",
    }
    for name, text in recipes.items():
        (tmp_path / name).write_text(text)
    arguments = [str(tmp_path / argument) if argument in recipes else argument for argument in arguments]
    with pytest.raises(ValueError, match=message) as error:
        parse_recipe(ALL, arguments)
    assert "SECRET" not in str(error.value)
