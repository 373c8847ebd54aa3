"""What all pages have in common: how their templates are filled, and text that names code."""

import re
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

_CODE = re.compile("`([^`]+)`")


def open_templates(folder: Path) -> Environment:
    """Return the templates of a folder: they escape every text, and fail on a name that they do not know."""
    environment = Environment(
        loader=FileSystemLoader(folder),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )
    environment.filters["marked"] = mark_code
    return environment


def mark_code(text: str) -> Markup:
    """Return text as HTML that shows as code what stands between backticks."""
    # Not by substitution in escaped text: up to Python 3.11 that escapes what it inserts.
    return Markup().join(
        Markup("<code>{}</code>").format(part) if place % 2 else part  # every second part was enclosed
        for place, part in enumerate(_CODE.split(text))
    )
