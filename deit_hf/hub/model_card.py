"""Renders a model card from its facts (model_facts.py) and templates/model_card.md, and writes it."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
import yaml
from huggingface_hub import EvalResult, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from ..evaluation.fusion import FUSIONS
from ..evaluation.metric_names import accuracy_name, evaluation_parts
from .model_facts import ModelFacts, shown
from .run_files import sealed, unsealed

logger = logging.getLogger(__name__)

TEMPLATE = Path(__file__).parent / "templates" / "model_card.md"

# The paper's class head, distillation head and their mean (table 3): part of a metric's name -> words of a card.
ANSWERS = {
    "": "class head (the model's answer)",
    "average": "mean of both heads (the model's answer)",
    "cls": "class head",
    "distillation": "distillation head",
}


def render_model_card(facts: ModelFacts) -> str:
    """A model card: YAML metadata as the Hub wants it, and text.

    Raises:
        ValueError: a metric is no fraction in [0, 1].
    """
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    template = environment.from_string(TEMPLATE.read_text(encoding="utf-8"))
    text = template.render(
        facts=facts,
        summary=_summary(facts),
        properties=_properties(facts),
        measured=_measured_rows(facts),
        recipe=_recipe_text(facts.recipe),
    )
    return f"---\n{_metadata(facts).to_yaml()}\n---\n\n{text}"


def _summary(facts: ModelFacts) -> str:
    deit = "A DeiT without distillation token" if facts.variant else "An image classifier"
    kind = "A DeiT with class and distillation token" if facts.two_heads else deit
    start = f"fine-tuned from {shown(facts.base_model)}" if facts.base_model else "trained from scratch"
    dataset = f" on {shown(facts.dataset)}" if facts.dataset else ""
    teacher = f", with {shown(facts.teacher)} as its teacher" if facts.teacher else ""
    return f"{kind}, {start}{dataset}{teacher}."


def _properties(facts: ModelFacts) -> dict[str, Any]:
    """The lines of the table at the top; what is not known has none."""
    height, width = facts.image_size
    parameters = None if facts.num_parameters is None else f"{facts.num_parameters:,}"
    lines = {
        "variant": facts.variant,
        "image size": f"{height}x{width}",
        "classes": facts.num_labels,
        **facts.architecture,
        "parameters": parameters,
        "base model": shown(facts.base_model),
        "teacher": shown(facts.teacher),
        "training data": shown(facts.dataset),
        "licence": facts.license,
    }
    return {name: value for name, value in lines.items() if value is not None}


def _recipe_text(recipe: Mapping[str, Any]) -> str:
    values = {name: shown(value) for name, value in recipe.items() if value is not None}
    return yaml.safe_dump(values, sort_keys=False, allow_unicode=True).strip() if values else ""


def _answers(facts: ModelFacts) -> dict[str, str]:
    """`ANSWERS` for the fusion that was measured; only the mean of logits is what the saved model answers."""
    return ANSWERS if facts.fusion == FUSIONS["logit_mean"] else {**ANSWERS, "average": facts.fusion}


def _measured_rows(facts: ModelFacts) -> list[dict[str, str]]:
    """One row for each answer that was measured, in percent."""
    rows = []
    choices = itertools.product(evaluation_parts(facts.metrics), (False, True), _answers(facts).items())
    for part, averaged, (head, answer) in choices:
        names = {name: accuracy_name(name, part=part, head=head, averaged=averaged) for name in ("top1", "top5")}
        if names["top1"] in facts.metrics:
            on = f", on {part}".replace("|", r"\|") if part else ""
            words = f"{answer}{', averaged weights' if averaged else ''}{on}"
            percents = {name: _percent(facts.metrics.get(metric)) for name, metric in names.items()}
            rows.append({"answer": words, **percents})
    return rows


def _percent(fraction: float | None) -> str:
    if fraction is None:
        return "–"
    if not 0 <= fraction <= 1:
        raise ValueError(f"an accuracy is {fraction}, but must be a fraction in [0, 1]")
    return f"{100 * fraction:.2f}"


def _metadata(facts: ModelFacts) -> ModelCardData:
    """The YAML block; only Hub ids may stand for models and data sets there."""
    dataset = _hub_id(facts.dataset)
    teacher = {"teacher": shown(facts.teacher)} if facts.teacher else {}  # the Hub has no field of its own for it
    tags = ["deit"] if facts.variant or facts.two_heads else []
    tags += ["distillation"] if facts.teacher or facts.two_heads else []
    return ModelCardData(
        library_name="transformers",
        pipeline_tag="image-classification",
        license=facts.license,
        base_model=_hub_id(facts.base_model),
        datasets=[dataset] if dataset else None,
        metrics=["accuracy"],
        tags=[*tags, "vision", "arxiv:2012.12877"],
        model_name=facts.title,
        eval_results=_results(facts) or None,
        **teacher,
    )


def _results(facts: ModelFacts) -> list[EvalResult]:
    """The metadata's results: ours, or if we measured nothing the first that others reported; never both in one."""
    answers = ANSWERS  # also of what others report
    if facts.metrics or not facts.reported:
        data, source, values = str(facts.evaluated_on or "evaluation split"), None, dict(facts.metrics)
        answers = _answers(facts)
    else:
        row = facts.reported[0]
        data, source = row.data, row
        head = "average" if facts.two_heads else ""
        percents = {accuracy_name("top1", head=head): row.top1, accuracy_name("top5", head=head): row.top5}
        values = {name: float(value) / 100 for name, value in percents.items() if value is not None}
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=_hub_id(facts.dataset) or "other",
            dataset_name=f"{data}: {part}" if part else data,
            dataset_split=part or None,  # the Hub's client joins results of the same type and split
            metric_type="accuracy",
            metric_name=f"{name.replace('top', 'top-')}, {answer}",
            metric_value=round(values[metric], 6),
            verified=False,
            source_name=source.source if source else None,
            source_url=source.url if source else None,
        )
        for part in evaluation_parts(values)
        for head, answer in answers.items()
        for name in ("top1", "top5")
        if (metric := accuracy_name(name, part=part, head=head)) in values
    ]


def _hub_id(name: str | None) -> str | None:
    """The name if it can be an id on the Hub; a path, a file and other words cannot."""
    if name is None or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:
        return None
    return name


def write_model_card(directory: str | Path, facts: ModelFacts, *, overwrite: bool = False) -> bool:
    """Writes `directory`/README.md, unless somebody edited the one that is there.

    A card of ours ends with its own checksum, so that any edit shows.

    Args:
        directory: where the run's files are.
        facts: what the card says.
        overwrite: write over an edited card, too.

    Returns:
        Whether the card was written.
    """
    path = Path(directory) / "README.md"
    if path.exists() and not overwrite and unsealed(path.read_text(encoding="utf-8")) is None:
        logger.warning("%s was edited by hand and stays as it is; move it away to get a new one", path)
        return False
    path.write_text(sealed(render_model_card(facts)), encoding="utf-8")
    return True
