"""Schema of a TEE's reference data: the known names and the form of their values.

The schema is derived from the TEE: its names are those that the packaged policy reads, their forms
are those of the claims. The packaged policy ignores any other name: a pin with a misspelled name
would leave the measurement unpinned. Such data is refused when it is stored, and every guest is
refused while it is in force.

An operator's policy may read further names. They are allowed if the text of the policy refers to
them (`data.rack`). If it reads `data` as a whole, every name is allowed that is not similar to a
name in the schema.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from typing import Final

from verdictd_py.documents.datanames import DataNames
from verdictd_py.domain.claims import Claim, MatchRule, is_number
from verdictd_py.encoding import JsonValue, quoted
from verdictd_py.errors import PolicyInvalid

_SIMILAR: Final = 0.75
"""Minimum similarity (difflib's ratio) of a name to the name that is suggested for it."""

_MAX_PROBLEMS: Final = 8
"""Maximum number of problems in one message."""


@dataclass(frozen=True, slots=True)
class ReferenceSchema:
    """Names and forms of the reference data of one TEE.

    Attributes:
        names: names that the packaged policy reads.
        claims: claims of the TEE by name.
        status: claim with the TCB status, None if there is none.
        statuses: every value of it that the vendor uses; empty if they are not known.
        grace: name of the days of grace by status, None if there is none.
    """

    names: tuple[str, ...]
    claims: Mapping[str, Claim] = field(repr=False)
    status: str | None = None
    statuses: tuple[str, ...] = ()
    grace: str | None = None

    def require(self, document: str, values: Mapping[str, JsonValue], reads: DataNames) -> None:
        """Refuse reference data that does not fit the schema.

        Args:
            document: name of the reference data, for the message.
            values: reference values by name.
            reads: names to which the text of the policy refers.

        Raises:
            PolicyInvalid: the message has every problem, with the correct name or value.
        """
        problems = tuple(self.problems(values, reads))
        if problems:
            more = len(problems) - _MAX_PROBLEMS
            listed = [*problems[:_MAX_PROBLEMS], *([f"and {more} more"] if more > 0 else [])]
            raise PolicyInvalid(f"{document}: " + "; ".join(listed))

    def problems(self, values: Mapping[str, JsonValue], reads: DataNames) -> Iterator[str]:
        """Return a sentence for each name or value that does not fit."""
        for name, value in values.items():
            if name in self.names:
                yield from self._value_problems(name, value)
            elif name not in reads.named:
                suggestion = closest(name, self.names)
                if suggestion or not reads.any_name:
                    yield self._unknown(name, suggestion)

    def _unknown(self, name: str, suggestion: str | None) -> str:
        problem = f"no policy reads {quoted(name)}, so that it would pin nothing"
        if suggestion is None:
            return f"{problem}; remove it, or store the policy that reads data.{name} first"
        return f"{problem}; did you mean {suggestion}?"

    def unread(self, values: Mapping[str, JsonValue], reads: DataNames) -> tuple[str, ...]:
        """Return the names that have values and that the policy in force does not refer to."""
        if reads.any_name:
            return ()
        return tuple(
            name
            for name in self.names
            if name not in reads.named and values.get(name, []) not in ([], {}, 0)
        )

    def _value_problems(self, name: str, value: JsonValue) -> Iterator[str]:
        if name == self.grace:
            yield from self._grace_problems(name, value)
            return
        claim = self.claims.get(name)
        if claim is None:  # only the packaged policy knows the form of this value
            return
        if claim.match is MatchRule.AT_LEAST:
            if not is_number(value):
                yield f"{name} is not a number (the minimum); write 0 to accept every value"
            return
        if not isinstance(value, list):
            yield f'{name} is not a list of accepted values; write ["..."]'
            return
        for item in value:
            problem = self._item_problem(name, claim, item)
            if problem is not None:
                yield problem
                return

    def _item_problem(self, name: str, claim: Claim, item: JsonValue) -> str | None:
        if name == self.status and self.statuses:
            return self._status_problem(name, item)
        if claim.match is MatchRule.EACH_ONE_OF:
            return None if isinstance(item, str) else f"{name}: every value must be a text"
        if claim.form.accepts(item):
            return None
        problem = f"{name}: {_as_text(item)} is not {claim.form.description}"
        if isinstance(item, str) and claim.form.accepts(item.strip().lower()):
            return f"{problem}; did you mean {item.strip().lower()}?"
        return problem

    def _status_problem(self, name: str, status: JsonValue) -> str | None:
        if isinstance(status, str) and status in self.statuses:
            return None
        suggestion = closest(status, self.statuses) if isinstance(status, str) else None
        if suggestion is None:
            return f"{name}: {_as_text(status)} is not one of {', '.join(self.statuses)}"
        return f"{name}: there is no status {_as_text(status)}; did you mean {suggestion}?"

    def _grace_problems(self, name: str, value: JsonValue) -> Iterator[str]:
        if not isinstance(value, dict):
            yield f"{name} is not an object of days by status"
            return
        for status, days in value.items():
            problem = self._status_problem(name, status) if self.statuses else None
            if problem is not None:
                yield problem
            if not is_number(days):
                yield f"{name}: {_as_text(days)} for {quoted(status)} is not a number of days"


def closest(name: str, known: Iterable[str], *, similarity: float = _SIMILAR) -> str | None:
    """Return the known name that was probably meant, None if no name is similar.

    Case, `_`, `-` and `.` are ignored.

    Args:
        similarity: minimum ratio of `difflib`; 1 for names that are otherwise equal.
    """
    plain = {_plain(candidate): candidate for candidate in known}
    matches = get_close_matches(_plain(name), plain, cutoff=similarity)
    return plain[matches[0]] if matches else None


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character not in "_-.")


def _as_text(value: JsonValue) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return json.dumps(value)
