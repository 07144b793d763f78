"""Renders a model card from its facts (model_facts.py) and templates/model_card.md, and writes it."""

import itertools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..atomic_files import write_text
from ..evaluation.fusion import FUSIONS
from ..evaluation.intervals import wilson_interval
from ..evaluation.metric_names import MeasuredSet, accuracy_name, measured_sets
from .markdown import Markdown, code_block, escaped, one_line, quoted, table
from .model_facts import ModelFacts
from .public_text import is_path, local_paths, shown, shown_options, without_paths
from .run_files import sealed, unsealed

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"

# The paper's class head, distillation head and their mean (table 3): part of a metric's name -> words in the card.
OUTPUTS = {
    "": "class head (model output)",
    "average": "mean of both heads (model output)",
    "cls": "class head",
    "distillation": "distillation head",
}
# Metric -> words in the card, metric type on the Hub.
SHARES_IN_WORDS = {
    "top1": ("top-1", "accuracy"),
    "top5": ("top-5", "accuracy"),
    "balanced_accuracy": ("balanced accuracy", "balanced_accuracy"),
    "macro_f1": ("macro-F1", "f1"),
}
NUM_BEST = 5  # the 5 of top-5, which is left out for models with at most 5 classes
MAX_CLASSES, NUM_SHOWN = 50, 10  # with more than MAX_CLASSES classes, the card lists the first NUM_SHOWN


def render_model_card(facts: ModelFacts) -> str:
    """Renders a model card: YAML metadata for the Hub, and text. All values except `Markdown` are escaped.

    Raises:
        ValueError: an accuracy is not a fraction in [0, 1].
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=escaped,
    )
    environment.filters |= {"quoted": quoted, "markdown": Markdown}
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(
        facts=facts,
        summary=_summary(facts),
        properties=table(("", ""), _properties(facts).items()),
        data=_data_table(facts),
        measured=_measured_table(facts),
        by_class=_class_table(facts),
        reported=_reported_table(facts),
        settings=_settings(facts),
        recipe=_recipe(facts),
    )
    return f"---\n{_metadata(facts).to_yaml()}\n---\n\n{text}"


def _summary(facts: ModelFacts) -> str:
    start = f", fine-tuned from {shown(facts.base_model)}" if facts.base_model else ", trained"
    start = ", trained from scratch" if facts.from_scratch else start
    if not facts.is_trained:
        base_model = shown(facts.base_model)
        weights = f"the weights of {base_model}" if base_model else "weights that deit_hf did not train"
        return f"{_kind(facts)} with {weights}."
    dataset = f" on {shown(facts.dataset)}" if facts.dataset else ""
    teacher = f", with {shown(facts.teacher)} as its teacher" if facts.teacher else ""
    return f"{_kind(facts)}{start}{dataset}{teacher}."


def _kind(facts: ModelFacts) -> str:
    if facts.two_heads:
        return "A DeiT with class and distillation token"
    if facts.is_deit:
        return "A DeiT with one head"
    kinds = {"vit": "A vision transformer (ViT)", "timm_wrapper": "A timm image classifier"}
    return kinds.get(facts.family, f"An image classifier ({facts.family})")


def _properties(facts: ModelFacts) -> dict[str, Any]:
    """Returns the rows of the table at the top, without unknown values."""
    height, width = facts.image_size
    lines = {
        "variant": facts.variant,
        "image size": f"{height}x{width}",
        "classes": facts.num_labels,
        **facts.architecture,
        "parameters": None if facts.num_parameters is None else f"{facts.num_parameters:,}",
        "base model": shown(facts.base_model),
        "teacher": shown(facts.teacher),
        "training data": shown(facts.dataset),
        "licence": facts.license,
    }
    return {name: value for name, value in lines.items() if value is not None}


def _data_table(facts: ModelFacts) -> str | None:
    """Formats the number of images per class, one column per part of the data.

    With many classes, the table has only the first ones, and the smallest and the largest number of images.
    """
    names, parts = facts.class_names or range(facts.num_labels), facts.data
    if not (facts.class_names or parts):
        return None
    counts = [part.by_class for part in parts.values()]
    rows: list[list[Any]] = [["all classes", *(f"{part.num_images:,}" for part in parts.values())]] if parts else []
    shown_names = names
    if len(names) > MAX_CLASSES:
        shown_names = names[:NUM_SHOWN]
        for title, extreme in (("smallest class", min), ("largest class", max)):
            rows += [[title, *("–" if each is None else f"{extreme(each):,}" for each in counts)]] if parts else []
    for index, name in enumerate(shown_names):
        rows.append([name, *("–" if each is None else f"{each[index]:,}" for each in counts)])
    text = table(["class", *parts], rows)
    more = len(names) - len(shown_names)
    return text if not more else Markdown(f"{text}\n\n{more:,} more classes are not shown; config.json lists all.")


def _settings(facts: ModelFacts) -> str | None:
    width = max(map(len, facts.effective_recipe), default=0)
    paths = local_paths({**facts.recipe, "teacher": facts.teacher, "base_model": facts.base_model})
    lines = [
        f"{name:{width}}  {one_line(without_paths(value, paths))}" for name, value in facts.effective_recipe.items()
    ]
    return code_block("\n".join(lines)) if lines else None


def _recipe(facts: ModelFacts) -> str | None:
    values = {name: value for name, value in shown_options(facts.recipe).items() if value is not None}
    return code_block(yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip(), "yaml") if values else None


# ---- accuracy ----


class _Row(NamedTuple):
    """The measured accuracy of one output: its set of images, the output in words, and the values by metric name."""

    on: MeasuredSet
    output: str
    values: dict[str, float]


def _measured_rows(facts: ModelFacts) -> list[_Row]:
    rows = []
    choices = itertools.product(measured_sets(facts.metrics), (False, True), _outputs(facts).items())
    for on, averaged, (head, output) in choices:
        names = {
            name: accuracy_name(name, part=on.part, head=head, averaged=averaged, prefix=on.prefix)
            for name in SHARES_IN_WORDS
        }
        values = {name: facts.metrics[metric] for name, metric in names.items() if metric in facts.metrics}
        if facts.num_labels <= NUM_BEST:
            values.pop("top5", None)
        if "top1" in values:
            rows.append(_Row(on, f"{output}{', averaged weights' if averaged else ''}", values))
    return rows


def _outputs(facts: ModelFacts) -> dict[str, str]:
    """Returns `OUTPUTS` for the measured fusion; the saved model itself outputs the mean of the logits."""
    return OUTPUTS if facts.fusion == FUSIONS["logit_mean"] else {**OUTPUTS, "average": facts.fusion}


def _measured_table(facts: ModelFacts) -> str | None:
    """Formats the measured accuracy in percent, one row per output."""
    rows = _measured_rows(facts)
    names = [name for name in SHARES_IN_WORDS if any(name in row.values for row in rows)]
    cells = [
        [
            row.output + ("" if row.on == MeasuredSet() else f", on {row.on.part or row.on.title}"),
            *_percents(row, names),
        ]
        for row in rows
    ]
    return table(["output", *(SHARES_IN_WORDS[name][0] for name in names)], cells) if rows else None


def _percents(row: _Row, names: Sequence[str]) -> list[str]:
    return [_percent(row.values.get(name)) for name in names]


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return "–"
    if not 0 <= fraction <= 1:
        raise ValueError(f"an accuracy is {fraction}, but must be a fraction in [0, 1]")
    return f"{100 * fraction:.2f}"


def _reported_table(facts: ModelFacts) -> str | None:
    with_top5 = facts.num_labels > NUM_BEST
    head = ["output", "data", "crop", "top-1", *(["top-5"] if with_top5 else []), "reported by"]
    rows = [
        [row.answer, row.data, row.crop, row.top1, *([row.top5 or "–"] if with_top5 else []), row.source]
        for row in facts.reported
    ]
    return table(head, rows) if rows else None


def _class_table(facts: ModelFacts) -> str | None:
    """Formats the accuracy of each class with its 95 % interval, one column per measured set, worst class first."""
    parts = {part: [each for each in classes if each["images"]] for part, classes in facts.by_class.items()}
    parts = {part: classes for part, classes in parts.items() if len(classes) > 1}
    if not parts:
        return None
    first = next(iter(parts.values()))
    found = {part: {each["index"]: each for each in classes} for part, classes in parts.items()}
    ranked = sorted(first, key=lambda each: (each["accuracy"], each["index"]))
    many = len(ranked) > MAX_CLASSES
    lowest, highest = (ranked[:NUM_SHOWN], ranked[-NUM_SHOWN:]) if many else (ranked, [])
    rows = [[each["name"], *(_of_class(found[part].get(each["index"])) for part in parts)] for each in lowest]
    rows += [["…", *("" for _ in parts)]] if many else []
    rows += [[each["name"], *(_of_class(found[part].get(each["index"])) for part in parts)] for each in highest]
    text = table(["class", *parts], rows)
    left = len(ranked) - len(lowest) - len(highest)
    return text if not left else Markdown(f"{text}\n\n{left:,} classes between them are not shown.")


def _of_class(counts: Mapping[str, Any] | None) -> str:
    if counts is None:
        return "–"
    low, high = wilson_interval(counts["correct"], counts["images"])
    share = f"{100 * counts['accuracy']:.1f} ({100 * low:.0f}–{100 * high:.0f})"
    return f"{share}, {counts['correct']:,} of {counts['images']:,}"


# ---- metadata ----


def _metadata(facts: ModelFacts) -> ModelCardData:
    """Returns the YAML metadata; its models and datasets must be Hub ids."""
    dataset = _hub_id(facts.dataset) if facts.is_trained else None
    # the Hub has no standard field for a teacher
    teacher: dict[str, Any] = {"teacher": one_line(shown(facts.teacher))} if facts.teacher else {}
    tags = ["deit"] if facts.is_deit else [{"timm_wrapper": "timm"}.get(facts.family, facts.family)]
    tags += ["distillation"] if facts.teacher else []
    results = _results(facts)
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license=facts.license,
        base_model=_hub_id(facts.base_model) if facts.is_trained else None,
        datasets=[dataset] if dataset else None,
        metrics=list(dict.fromkeys(result.metric_type for result in results)) or None,
        tags=[*tags, "vision", *(["arxiv:2012.12877"] if facts.follows_paper else [])],
        model_name=one_line(facts.title),
        eval_results=results or None,
        **teacher,
    )


def _results(facts: ModelFacts) -> list[EvalResult]:
    """Returns the results for the metadata: measured ones, or else the first reported one, never both."""
    rows = [row for row in _measured_rows(facts) if not row.output.endswith(", averaged weights")]
    data, reported = str(facts.evaluated_on or "evaluation split"), None
    if not rows and facts.reported:
        reported = facts.reported[0]
        data = reported.data
        percents = {"top1": reported.top1, "top5": reported.top5}
        values = {name: float(value) / 100 for name, value in percents.items() if value is not None}
        rows = [_Row(MeasuredSet(), OUTPUTS["average" if facts.two_heads else ""], values)]

    def dataset_name(on: MeasuredSet) -> str:
        other = f"{shown(facts.dataset) or 'data'} ({on.title})"
        return data if on == MeasuredSet() else f"{data}: {on.part}" if on.prefix == "eval" else other

    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=_hub_id(facts.dataset) or "other",
            dataset_name=one_line(dataset_name(row.on)),
            # huggingface_hub merges results of the same type and split
            dataset_split=None if row.on == MeasuredSet() else one_line(row.on.part or row.on.prefix),
            metric_type=SHARES_IN_WORDS[name][1],
            metric_name=f"{SHARES_IN_WORDS[name][0]}, {row.output}",
            metric_value=round(value, 6),
            verified=False,
            source_name=reported.source if reported else None,
            source_url=reported.url if reported else None,
        )
        for row in rows
        for name, value in row.values.items()
    ]


def _hub_id(name: str | None) -> str | None:
    """Returns the name if it is a valid Hub id and not a local path, else None."""
    if name is None or is_path(name) or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def write_model_card(directory: str | Path, facts: ModelFacts) -> bool:
    """Writes `directory`/README.md, unless the existing one was edited by hand.

    A card ends with its own checksum, so that edits are detected.

    Args:
        directory: of the run.
        facts: the content of the card.

    Returns:
        Whether the card was written.
    """
    path = Path(directory) / "README.md"
    if path.exists() and unsealed(path.read_text(encoding="utf-8")) is None:
        logger.warning("%s was edited by hand and is kept; move it away to get a new one", path)
        return False
    write_text(path, sealed(render_model_card(facts)))
    return True
