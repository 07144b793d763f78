"""The one way to render a page: names are escaped, and a missing value is an error."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).parent / "templates"


def render(template: str, values: Mapping[str, Any], *, filters: Mapping[str, Any] | None = None) -> str:
    """Renders a file of `templates/`; all values except `markupsafe.Markup` are escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= filters or {}
    return environment.get_template(template).render(values)
