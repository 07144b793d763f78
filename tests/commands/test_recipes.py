"""The list of recipes, and their copies."""

from pathlib import Path

import pytest

from deit_hf.commands.recipes import main
from deit_hf.training.shipped_recipes import RECIPES, find_recipe, recipe_names, summary


def test_list_has_one_line_for_each_recipe(capsys):
    main([])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == sorted(path.stem for path in RECIPES.glob("*.yaml"))
    assert (
        "small-data                   100 to 5,000 images of your own classes: pretrained start and a teacher" in lines
    )
    assert max(map(len, lines)) <= 110


@pytest.mark.parametrize("name", recipe_names())
def test_first_line_of_each_recipe_is_one_sentence(name: str):
    first = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert first.endswith(".")
    assert ". " not in first
    assert summary(name) == first[2:-1]


def test_recipe_is_printed_as_it_is(capsys):
    main(["distill-hard-tiny"])
    assert capsys.readouterr().out == (RECIPES / "distill-hard-tiny.yaml").read_text(encoding="utf-8")


def test_copy_is_equal_and_never_overwrites(tmp_path: Path, capsys):
    file = tmp_path / "own.yaml"
    main(["small-data", "--copy", str(file)])
    assert capsys.readouterr().out == f"wrote {file}; train with: deit-hf train {file}\n"
    assert file.read_bytes() == (RECIPES / "small-data.yaml").read_bytes()
    file.write_text("mine")
    with pytest.raises(SystemExit, match="^2$"):
        main(["quickstart-plain", "--copy", str(file)])
    assert capsys.readouterr().err == f"error: `{file}` already exists; name another file, or delete it\n"
    assert file.read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["small-dta"], "no recipe `small-dta`; did you mean `small-data`?"),
        (["--copy", "x.yaml"], "`copy` is x.yaml, but no recipe is named; name one of deit3-pretrain-small, "),
        (["small-data", "--copy", "x"], "`copy` is x, but must end in .yaml"),
        (["small-data", "--copy", "none/x.yaml"], "`copy` is none/x.yaml, but the folder `none` does not exist"),
        (["own.yaml"], "`own.yaml` is a file of your own; name a recipe of this package: "),
        (["small-data", "other"], "no option takes other"),
        (["small-data", "--cpy", "x.yaml"], "unknown option --cpy; did you mean `copy`?"),
    ],
)
def test_wrong_input_is_one_line(arguments: list[str], message: str, tmp_path: Path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.yaml").write_text("seed: 1\n")
    with pytest.raises(SystemExit, match="^2$"):
        main(arguments)
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}")
    assert error.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]


def test_only_a_path_names_a_file_here(tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("small-data", "small-data.yaml", "mine"):
        (tmp_path / name).write_text("seed: 1\n")
    assert find_recipe("small-data") == RECIPES / "small-data.yaml"
    assert find_recipe("small-data.yaml") == Path("small-data.yaml")
    assert find_recipe("./mine") == Path("mine")
    with pytest.raises(FileNotFoundError, match="`mine` here is a file, but the name of a file must end in .yaml"):
        find_recipe("mine")


@pytest.mark.parametrize(
    "name", ["distil-hard-tiny", "distil-hard-tiny.yaml", "scripts/recipes/distil-hard-tiny.yaml"]
)
def test_typo_names_the_nearest_recipe(name: str):
    with pytest.raises(FileNotFoundError, match="did you mean `distill-hard-tiny` or `distill-hard-base`"):
        find_recipe(name)
