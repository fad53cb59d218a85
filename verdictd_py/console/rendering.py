"""Rendering of pages with Jinja2: every value is escaped, and a missing one is an error.

`standalone` pages are files of their own for tickets: the stylesheet is in them, and they have no
menu and no form.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib import resources
from typing import Any, Final

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from verdictd_py import __version__
from verdictd_py.console import comparing
from verdictd_py.console.language import Language
from verdictd_py.console.visible import visible

_STYLE: Final = "console.css"


@cache
def stylesheet() -> str:
    """Return the only stylesheet."""
    return resources.files(__package__).joinpath("assets", _STYLE).read_text("utf-8")


@cache
def style_version() -> str:
    """Return a text that changes with the stylesheet, for its URL."""
    return sha256(stylesheet().encode()).hexdigest()[:16]


def _shown(value: object) -> object:
    """Return what a page displays for a value; markup of the templates stays as it is."""
    if isinstance(value, Markup):
        return value
    return visible(value) if isinstance(value, str) else value


@cache
def environment() -> Environment:
    """Return the environment of all templates."""
    made = Environment(
        loader=PackageLoader(__package__),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_shown,
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=["jinja2.ext.do"],
    )
    made.globals.update(groups=comparing.groups, version=__version__)
    made.tests["digest"] = lambda value: isinstance(value, str) and comparing.is_digest(value)
    return made


def render(template: str, language: Language, values: Mapping[str, Any]) -> str:
    """Return a page.

    Args:
        values: what the template displays, by name.
    """
    return environment().get_template(template).render({**values, "_": language, "lang": language})


def standalone(template: str, language: Language, values: Mapping[str, Any]) -> str:
    """Return a page as one file, which requests nothing and runs nothing."""
    style = stylesheet()
    digest = b64encode(sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    # Only the project's own stylesheet is marked as safe; no value of a guest reaches it.
    file = {"style": Markup(style), "policy": policy}  # noqa: S704
    return render(template, language, {**values, "standalone": file})
