"""The settings in force, and the source of each; secrets are redacted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from verdictd_py import config
from verdictd_py.cli.config.statements import Document
from verdictd_py.config import ENVIRONMENT_PREFIX, Settings

REDACTED: Final = "(redacted)"

_USER: Final = re.compile(r"(?<=://)[^/?#\s]*@|^[^/?#\s@]*:[^/?#\s@]*@")
"""User and password of an address, also of one whose scheme was forgotten."""
_SECRET: Final = re.compile(
    r"pass(word|phrase|wd)?|secret|token|credential|api.?key|private|signature|\bsig\b|\bpin\b",
    re.IGNORECASE,
)
_PARAMETER: Final = re.compile(r"((?:^|[?&;\s])[^=?&;#\s]*)=(?:'[^']*'|[^?&;#\s]*)")
"""A parameter of a URL, of a pkcs11: URI, or of a connection string of PostgreSQL."""


@dataclass(frozen=True, slots=True)
class Effective:
    """A setting in force.

    Attributes:
        value: its value for JSON, without secrets.
        source: `default`, `file`, `environment` or `command line`.
        where: file and line, variable, or option; empty for a default.
    """

    name: str
    value: Any
    source: str
    where: str


def effective(
    settings: Settings, flags: Mapping[str, Any], document: Document | None
) -> tuple[Effective, ...]:
    """Return every setting in force.

    Args:
        settings: the result of `config.load` with the same sources.
        flags: values from the command line, by field name.
        document: the configuration file; None without one.
    """
    environment = config.environment_values()
    values = settings.model_dump(mode="json")

    def source(name: str) -> tuple[str, str]:
        if name in flags:
            return "command line", "--" + name.replace("_", "-")
        if name in environment:
            return "environment", ENVIRONMENT_PREFIX + name.upper()
        if document is not None and name in document.table:
            return "file", f"{settings.file}:{document.line_of(name)}"
        return "default", ""

    return tuple(
        Effective(name, redacted(value, name), *source(name)) for name, value in values.items()
    )


def redacted(value: Any, name: str = "", *, nested: bool = False) -> Any:  # noqa: ANN401  # JSON
    """Return a value without user, password and parameters of addresses, and without secrets.

    Args:
        name: the name of the setting, or of the member of a section.
        nested: whether the value is in the section of a TEE, whose members nothing describes.
    """
    if isinstance(value, Mapping):
        return {key: redacted(member, key, nested=True) for key, member in value.items()}
    if isinstance(value, list):
        return [redacted(member, name, nested=nested) for member in value]
    if nested and _SECRET.search(name) and not name.endswith(("_file", "_path")):
        return REDACTED
    if isinstance(value, str) and not value.startswith(("/", "unix:")):  # a path has no secret
        without_user = _USER.sub(f"{REDACTED}@", value)
        return _PARAMETER.sub(_parameter, without_user)
    return value


def _parameter(found: re.Match[str]) -> str:
    """Return a parameter of an address; its value is redacted if its name is that of a secret."""
    return f"{found[1]}={REDACTED}" if _SECRET.search(found[1]) else found[0]
