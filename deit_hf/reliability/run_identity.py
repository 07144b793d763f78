"""Records what was trained in a directory, also in its checkpoints, and compares two such records.

training/same_run.py decides what is recorded and which differences matter.
"""

import json
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, NamedTuple

RUN_IDENTITY = "run_identity.json"


class Difference(NamedTuple):
    """An option or a fact whose value is not the recorded one.

    Attributes:
        name: name of the option or fact, as in `allow_changes`.
        stored: the value in the record.
        given: the value of the run that is to continue.
    """

    name: str
    stored: Any
    given: Any

    def __str__(self) -> str:
        """Both values in words; for two mappings, only the entries that differ."""
        if isinstance(self.stored, Mapping) and isinstance(self.given, Mapping):
            parts = [
                f"{part} {_shown(self.stored.get(part))}, now {_shown(self.given.get(part))}"
                for part in {**self.stored, **self.given}
                if self.stored.get(part) != self.given.get(part)
            ]
            return f"`{self.name}` ({'; '.join(parts)})"
        if isinstance(self.stored, list) and isinstance(self.given, list):
            return f"`{self.name}` {_first_difference(self.stored, self.given)}"
        return f"`{self.name}` was {_shown(self.stored)} and is {_shown(self.given)}"


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return " ".join(f"{name} {_shown(part)}" for name, part in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _first_difference(stored: list[Any], given: list[Any], most: int = 12) -> str:
    """Describes two lists: in full, or from the first difference on if they are long."""
    if max(len(stored), len(given)) <= most:
        return f"were {_shown(stored) or 'none'} and are {_shown(given) or 'none'}"
    pairs = zip(stored, given, strict=False)
    place = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(stored), len(given)))
    old, new = (_shown(values[place : place + 3]) for values in (stored, given))
    return f"were {len(stored)}, from index {place} on {old}, ..., and are {len(given)}, from there on {new}, ..."


def read_identity(directory: str | Path) -> dict[str, Any] | None:
    """The record in the directory of a run or checkpoint; None if there is none.

    Raises:
        ValueError: the record is damaged; names the file.
    """
    path = Path(directory) / RUN_IDENTITY
    if not path.is_file():
        return None
    try:
        identity = json.loads(path.read_text(encoding="utf-8"))
        return {"changes": [*identity["changes"]], **{part: {**identity[part]} for part in ("options", "facts")}}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"`{path}` is damaged, so what was trained there is unknown; continue from another checkpoint, name "
            "another `output_dir`, or delete the file to continue without a comparison"
        ) from error


def write_identity(directory: str | Path, identity: Mapping[str, Any]) -> None:
    """Writes the record, in full or not at all."""
    path = Path(directory) / RUN_IDENTITY
    aside = path.with_name(f".unfinished-{RUN_IDENTITY}")
    aside.write_text(json.dumps(identity, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, path)


def differences(stored: Mapping[str, Any], given: Mapping[str, Any], defaults: Mapping[str, Any]) -> list[Difference]:
    """The differences between two records, options first.

    Only groups of options and facts that both records have are compared: a run in Python, for example, has no group of
    data options. An option that is missing in a stored group is newer than the record, so that run had its default.

    Args:
        stored: the record.
        given: the record of the run that is to continue.
        defaults: default values of options. A new option with an empty value is not a difference, because
            transformers replaces many options that are None.
    """
    found = []
    for group in stored["options"].keys() & given["options"].keys():
        old, new = stored["options"][group], given["options"][group]
        for name, value in new.items():
            before = old.get(name, defaults.get(name) if value else value)
            if before != value:
                found.append(Difference(name, before, value))
    for name, value in given["facts"].items():
        if name in stored["facts"] and stored["facts"][name] != value:
            found.append(Difference(name, stored["facts"][name], value))
    return sorted(found, key=lambda difference: [*_names(given)].index(difference.name))


def _names(identity: Mapping[str, Any]) -> dict[str, None]:
    """Names of options and facts, in the order of the record."""
    names = [name for group in identity["options"].values() for name in group]
    return dict.fromkeys([*names, *identity["facts"]])


def refusal(place: str | Path, refused: Collection[Difference], fixed: Collection[Difference]) -> ValueError:
    """The error that names each difference and what to do.

    Args:
        place: directory of the record.
        refused: differences that `allow_changes` can allow.
        fixed: differences that cannot be allowed within a run.
    """
    listed = "; ".join(map(str, [*refused, *fixed]))
    last_way = f"pass --allow_changes {' '.join(each.name for each in refused)} to continue it with these changes"
    if fixed:
        names = ", ".join(f"`{each.name}`" for each in fixed)
        last_way = (
            f"start a new run from its weights, `model_name_or_path` {place}: {names} cannot change within a run"
        )
    return ValueError(
        f"`{place}` holds another run: {listed}. Use the stored values to continue it, name another `output_dir`, "
        f"pass --overwrite_output_dir true to start again from step 0, or {last_way}"
    )
