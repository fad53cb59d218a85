"""Every fault of a configuration file, with its line, cause and remedy."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from verdictd_py.cli.config import explained
from verdictd_py.cli.config.statements import Document, read
from verdictd_py.cli.parsing import read_whole
from verdictd_py.config import Settings, Unsafe, describe, is_unsafe, unsafe_in_file
from verdictd_py.daemon.contradictions import contradictions
from verdictd_py.domain.spelling import closest, did_you_mean
from verdictd_py.errors import ConfigError

MAX_BYTES: Final = 64 * 1024
"""Maximum size of a file. The one of `config init`, with every setting, has a quarter of it."""

_REFERENCE: Final = "verdictd-py config init prints every setting"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of a configuration file.

    Attributes:
        line: number of its line; None if it is in none, as a missing setting is.
        setting: name of the setting; empty for a line that cannot be read.
        message: cause, then remedy, in one line.
    """

    line: int | None
    setting: str
    message: str


def document_of(file: Path) -> Document:
    """Read a configuration file as far as it is TOML.

    Raises:
        ConfigError: it cannot be read at all.
    """
    content = read_whole(file, MAX_BYTES)
    try:
        return read(content.decode())
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise ConfigError(f"{file} is not UTF-8 in line {line}; correct that line") from None


def faults(document: Document) -> tuple[Fault, ...]:
    """Return all faults of a document in the order of its lines."""
    found = [Fault(fault.line, "", fault.cause) for fault in document.faults]
    accepted = dict(document.table)
    for key in document.table:
        if is_unsafe(key):
            found.append(Fault(document.line_of(key), key, unsafe_in_file(key, key)))
            del accepted[key]
    settings, refused = _validated(accepted)
    for name, detail in refused.items():
        line = document.line_of(*detail["loc"])
        found.append(Fault(line, name, _message(name, detail, accepted)))
    if settings is not None:
        wrong = {*refused, *(fault.key for fault in document.faults)}
        meant = {closest(name, [*Settings.model_fields]) or name for name in wrong}
        for name, message in contradictions(settings, Unsafe(), unknown=wrong | meant):
            found.append(Fault(document.line_of(name), name, message))
    return tuple(sorted(found, key=lambda fault: (fault.line is None, fault.line or 0)))


def _validated(values: dict[str, Any]) -> tuple[Settings | None, dict[str, ErrorDetails]]:
    """Return the settings without those that the model refuses, and these, by name."""
    refused: dict[str, ErrorDetails] = {}
    rest = dict(values)
    while True:
        try:
            return Settings(**rest), refused
        except ValidationError as error:
            details = error.errors(include_url=False, include_input=False)
        before = len(rest)
        for detail in details:
            name = str(detail["loc"][0]) if detail["loc"] else ""
            refused.setdefault(name, detail)
            rest.pop(name, None)
        if len(rest) == before:  # no single value is at fault
            return None, refused


def _message(name: str, detail: ErrorDetails, values: dict[str, Any]) -> str:
    if detail["type"] == "extra_forbidden":
        hint = did_you_mean(name, [*Settings.model_fields])
        rest = hint or f"; {_REFERENCE}"
        return f"{name} is not a setting: remove it, or correct its name{rest}"
    text = describe(detail, name, values)
    if detail["type"] in ("value_error", "literal_error"):  # these have a remedy
        return text
    remedy = {setting.name: setting.remedy for setting in explained.settings()}
    cause = text.removeprefix(f"{name}: ")
    return f"{name}: {cause[:1].lower()}{cause[1:]}; {remedy.get(name, _REFERENCE)}"
