"""Schema of a TEE's reference data: the names that decide, and the form of their values.

The schema is derived from the TEE: its names are those that the packaged policy reads, their forms
are those of the claims. A name outside it decides nothing under the packaged policy: a pin with
a misspelled name would leave the measurement open. Such data is refused, when it is stored and for
every guest that it would decide about.

A policy of the operator's may read names of its own. They are allowed where the text of the
policy refers to them (`data.rack`). If it reads `data` as a whole, every name is allowed that is
not nearly one of the schema's.
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
"""Least similarity (difflib's ratio) of a name to the one that is suggested for it."""

_MAX_PROBLEMS: Final = 8
"""Problems that one message names."""


@dataclass(frozen=True, slots=True)
class ReferenceSchema:
    """Names and forms of the reference data of one TEE.

    Attributes:
        names: what the packaged policy reads.
        claims: claims of the TEE by name.
        status: claim that is the vendor's term for the TCB status, None for none.
        statuses: every value of it that the vendor uses; empty if they are not known.
        grace: name of the days of grace by status, None for none.
    """

    names: tuple[str, ...]
    claims: Mapping[str, Claim] = field(repr=False)
    status: str | None = None
    statuses: tuple[str, ...] = ()
    grace: str | None = None

    def require(self, document: str, values: Mapping[str, JsonValue], reads: DataNames) -> None:
        """Refuse reference data that does not fit.

        Args:
            document: its name, for the message.
            values: reference values by name.
            reads: names that the policy refers to which decides with them.

        Raises:
            PolicyInvalid: one line that names every problem, with the right name or value.
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
        said = f"no policy reads {quoted(name)}, so that it would pin nothing"
        if suggestion is None:
            return f"{said}; remove it, or store the policy that reads data.{name} first"
        return f"{said}; did you mean {suggestion}?"

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
        if claim is None:  # a name of the packaged policy's own, for which no form is known
            return
        if claim.match is MatchRule.AT_LEAST:
            if not is_number(value):
                yield f"{name} is not a number, the least that is accepted; write 0"
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
            return None if isinstance(item, str) else f"{name}: each value is a text"
        if claim.form.accepts(item):
            return None
        said = f"{name}: {_as_text(item)} is not {claim.form.description}"
        if isinstance(item, str) and claim.form.accepts(item.strip().lower()):
            return f"{said}; did you mean {item.strip().lower()}?"
        return said

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
    """Return the name among `known` that was probably meant, None where none is similar.

    Case, `_`, `-` and `.` make no difference.

    Args:
        similarity: least ratio of `difflib`; 1 for names that differ in nothing else.
    """
    plain = {_plain(each): each for each in known}
    matches = get_close_matches(_plain(name), plain, n=1, cutoff=similarity)
    return plain[matches[0]] if matches else None


def _plain(name: str) -> str:
    return "".join(character for character in name.lower() if character not in "_-.")


def _as_text(value: JsonValue) -> str:
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    return json.dumps(value)
