"""The card of a store of teacher answers on the Hub: what it is, how to train with it, and what it was made from."""

from collections.abc import Iterator, Mapping
from typing import Any

from huggingface_hub import DatasetCardData

from ..distillation.teacher_cache import AnswerStore
from .markdown import Markdown, code_block, escaped, table
from .public_text import shown, without_paths


def render_store_card(store: AnswerStore, repo_id: str) -> str:
    """Renders a dataset card: YAML metadata for the Hub, and text without local paths.

    Args:
        store: its facts `teacher` (a name) and `teacher_top1` (a fraction) are named first, all others are listed.
        repo_id: `user/name`.
    """
    metadata = DatasetCardData(
        pretty_name=f"Teacher answers: {repo_id}",
        task_categories=["image-classification"],
        tags=["deit_hf", "knowledge-distillation"],
        viewer=False,  # the Hub cannot show the files as a table
    )
    kind, epochs = store.format, store.finished_epochs()
    size = kind.bytes_per_epoch * len(epochs) / 1e6
    what = "the teacher's class for each view, 2 bytes each"
    if kind.kind == "soft":
        what = (
            f"the {kind.top_k} largest logits of each view, and the normaliser of all {kind.num_classes} classes at "
            f"temperature {kind.temperature:g}"
        )
    elif kind.num_classes > 1 << 16:
        what = "the teacher's class for each view, 4 bytes each"
    parts = [
        f"---\n{metadata.to_yaml()}\n---",
        f"# {escaped(repo_id)}",
        f"Stored answers of a teacher for knowledge distillation{_teacher(store.facts)}. They train a student as the "
        "teacher would, without running it.",
        f"- {kind.kind} answers: {what}\n- {_epochs(epochs)} of {kind.num_views:,} views, {kind.num_classes:,} "
        f"classes, {size:,.1f} MB\n- safetensors files, one for each epoch; row i is the answer to the view at "
        "position i of the epoch's global order. No images, no labels, no pickles.",
        "## Training",
        code_block(f"deit-hf train RECIPE --teacher none --teacher_cache {repo_id}", "sh"),
        "The answers fit the views of one recipe on one dataset. A run whose views differ from the fingerprint below "
        "is refused, and each difference is named. The student, its learning rate and its seed may differ, and so may "
        "the batch of a device and the number of processes.",
        "## Fingerprint",
        table(["What determines views and answers", "Value"], _flat(store.fingerprint)),
        "## How the answers were made",
        table(["Fact", "Value"], _flat(store.facts)) if store.facts else "Not recorded.",
        "Written by deit_hf.",
    ]
    return "\n\n".join(parts) + "\n"


def public_value(value: Any) -> Any:
    """A value of the facts or the fingerprint without local paths."""
    if isinstance(value, Mapping):
        return {name: public_value(part) for name, part in value.items()}
    if isinstance(value, list):
        return [public_value(part) for part in value]
    return without_paths(shown(value)) if isinstance(value, str) else value


def _teacher(facts: Mapping[str, Any]) -> str:
    name, top1 = public_value(facts.get("teacher")), facts.get("teacher_top1")
    words = f", from `{name}`" if isinstance(name, str) and "`" not in name else ""
    return words + (f", top-1 {100 * top1:.2f} % on the evaluation part" if isinstance(top1, int | float) else "")


def _epochs(epochs: list[int]) -> str:
    if len(epochs) == 1:
        return f"1 epoch (number {epochs[0]})"
    consecutive = epochs == list(range(epochs[0], epochs[-1] + 1))
    return f"{len(epochs)} epochs ({epochs[0]} to {epochs[-1]}{'' if consecutive else ', not all'})"


def _flat(values: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, str | Markdown]]:
    """The entries of nested mappings, with dotted names."""
    for name, value in public_value(values).items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{before}{name}.")
        else:
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            yield f"{before}{name}", text or Markdown("(empty)")
