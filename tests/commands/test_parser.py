"""Errors about a command line quote names of options, but never a token."""

import io
import sys

import pytest

from deit_hf.argument_checks import unknown_options, without_tokens
from deit_hf.commands import benchmark, compare, convert, evaluate, models, predict, push, train
from deit_hf.commands.errors import one_line_errors

TOKEN = "hf_SECRETSECRETSECRETSECRETSECRETSE"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--hub_tokn", "SECRET"], "--hub_tokn"),
        (["--hub_tokn=SECRET"], "--hub_tokn"),
        (["--a", "SECRET", "--b", "SECRET"], "--a, --b"),
        (["stray.yaml", "again"], "stray.yaml, again"),
        ([TOKEN], "<token>"),
    ],
)
def test_unknown_options_are_named_without_their_values(arguments: list[str], named: str):
    assert unknown_options(arguments) == named


@pytest.mark.parametrize("token", [TOKEN, "hf_oauth_eyJh.bGci-OiJ_FUzI1Ni", "api_org_" + "x" * 34])
def test_tokens_are_taken_out_of_a_text_and_names_are_not(token: str):
    assert without_tokens(f"invalid value: '{token}'") == "invalid value: '<token>'"
    text = "hf_hub_download, hf_internal and shelf_aaaaaaaaaaaaaaaaaaaaaaaa stay"
    assert without_tokens(text) == text


@pytest.mark.parametrize(
    ("command", "arguments"),
    [(push, ["run", "--hub_model_id", "a/b"]), (compare, ["run"]), (convert, ["a.pth", "model"])],
)
def test_mistyped_option_of_a_command_does_not_echo_its_value(command, arguments: list[str], monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", *arguments, "--tokn", TOKEN])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error == "error: unknown option --tokn; see --help for all\n"
    assert TOKEN not in error


@pytest.mark.parametrize(
    ("command", "arguments", "message"),
    [
        (predict, ["--modle", "dir"], "unknown option --modle; did you mean `model`?; see --help"),  # no IMAGE either
        (predict, ["a.png", "--model", "m", "--topk=3"], "unknown option --topk; did you mean `top_k`?; see --help"),
        (push, ["run", "--hub-model-id", "a/b"], "unknown option --hub-model-id; did you mean `hub_model_id`?"),
        (evaluate, ["--model_name", "m"], "unknown option --model_name; did you mean `model_name_or_path`"),
        (train, ["none.yaml", "--varaint", "x", "--seed", "x"], "unknown option --varaint; did you mean `variant`?"),
        (models, ["now"], "no option takes now; see --help"),
        (benchmark, ["outpt"], "argument part: invalid choice: 'outpt'"),
        (predict, ["--model", "m"], "the following arguments are required: MODEL PATH; see --help"),
    ],
)
def test_mistyped_option_comes_before_all_that_is_missing_and_is_one_line(
    command, arguments: list[str], message: str, monkeypatch, capsys
):
    monkeypatch.setattr(sys, "argv", ["command", *arguments])
    with pytest.raises(SystemExit) as left:
        command.main()
    assert left.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1


def test_beginning_of_a_flag_and_negative_numbers_are_no_unknown_flags(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["command", "a.png", "--mod", "none/such/model", "--top", "-1"])
    with pytest.raises(SystemExit):
        predict.main()
    assert "unknown" not in capsys.readouterr().err


def test_error_of_a_command_shows_no_token(monkeypatch):
    stderr = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stderr)
    with pytest.raises(SystemExit), one_line_errors():
        raise FileNotFoundError(f"no recipe at `{TOKEN}`")
    assert stderr.getvalue() == "error: no recipe at `<token>`\n"
