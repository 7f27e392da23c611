"""A report as one HTML page that opens offline: data, styles, scripts and pictures are all in it."""

from __future__ import annotations

import hashlib
import json
from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from pytest_peftbench.report.html.details import details, pictures_shown
from pytest_peftbench.report.html.model import Page, page_data

__all__ = ["Page", "curves_page", "details", "html_page", "page_data", "pictures_shown"]

_FOLDER = Path(__file__).parent
# In the order in which they run: libraries first, then what each section is made by.
_LIBRARIES = ("vendor/d3-7.9.2.min.js", "vendor/plot-0.6.17.min.js")
_SCRIPTS = (
    *("core.js", "verdicts.js", "summary.js", "pair.js", "table.js"),
    *("pareto.js", "gallery.js", "footprints.js", "laws.js", "history.js", "main.js"),
)


def html_page(page: Page) -> str:
    """The page's text. The same page gives the same text."""
    return rendered(page_data(page))


def rendered(data: Mapping[str, Any]) -> str:
    """The page of some data, as `page_data` gives it."""
    return _filled("page.html", data, _SCRIPTS)


def curves_page(data: Mapping[str, Any]) -> str:
    """The page of what budgets of trials buy. data: as `peftbench curve --json` writes it."""
    return _filled("curves.html", data, ("curves.js",))


def _filled(template: str, data: Mapping[str, Any], own: tuple[str, ...]) -> str:
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    templates = Environment(
        loader=FileSystemLoader(_FOLDER),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    scripts = [_text(name) for name in (*_LIBRARIES, *own)]
    return templates.get_template(template).render(
        data=data,
        json=Markup(_json(data)),
        style=Markup(_text("page.css")),
        scripts=[Markup(script) for script in scripts],
        # what runs is named by its hash, so that no text of a file can ever run
        hashes=" ".join(f"'sha256-{_hash(script)}'" for script in scripts),
    )


@cache
def _text(name: str) -> str:
    return (_FOLDER / name).read_text(encoding="utf-8").strip()


def _json(data: Mapping[str, Any]) -> str:
    """JSON that no parser of HTML takes for anything else."""
    text = json.dumps(data, allow_nan=False, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _hash(script: str) -> str:
    return b64encode(hashlib.sha256(script.encode()).digest()).decode()
