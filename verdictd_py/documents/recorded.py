"""Recorded claims of guests: files that tests of policies take.

A file has the claims of one guest as a JSON object, or a report that contains them: the output
of `verdict-py explain --json`, `verdictd-py appraise --json`, or, as a list, that of
`verdict-py guest list --json`. The input of a release policy is an object as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from verdictd_py.encoding import JsonValue, decode_value, quoted
from verdictd_py.errors import PolicyRefused, RequestError

MAX_RECORDED_BYTES: Final = 4 * 1024 * 1024
"""Of one file: a guest's claims have at most 1 MiB, and reports are indented."""

_MAX_CONTAINERS: Final = 100_000
"""Objects and arrays of one file. An event log of 1,023 events has as many."""

_MAX_VALUES: Final = 10 * _MAX_CONTAINERS
"""Values of every type together."""

_REPORT: Final = frozenset({"claims", "verdict"})
"""Members of every report; the input of a release policy has no verdict."""


@dataclass(frozen=True, slots=True)
class RecordedClaims:
    """Claims of one guest, as an operator recorded them.

    Attributes:
        claims: input of the policy.
        tee: as the report says; None for claims without a report.
        withheld: claims that the guest had, and that the report does not contain.
        fault: code of a refusal that no policy decided; empty for any other guest.
    """

    claims: Mapping[str, JsonValue]
    tee: str | None = None
    withheld: tuple[str, ...] = ()
    fault: str = ""

    @property
    def for_release(self) -> bool:
        """Whether they are the input of a release policy, which names a resource."""
        return isinstance(self.claims.get("resource"), dict)


def read_recorded(data: bytes, what: str) -> tuple[RecordedClaims, ...]:
    """Read a file of recorded claims; several guests only where it is a list.

    Args:
        what: names the file in messages.

    Raises:
        RequestError: it is too large, not JSON, or has no claims; the message says what to do.
    """
    if len(data) > MAX_RECORDED_BYTES:
        raise RequestError(
            f"{what} is larger than {MAX_RECORDED_BYTES} bytes; claims of one guest are smaller"
        )
    try:
        value = decode_value(data, what, max_containers=_MAX_CONTAINERS, max_values=_MAX_VALUES)
    except RequestError as error:
        place = "" if str(error).startswith(what) else f"{what}: "
        raise RequestError(f"{place}{error}; record the claims again") from None
    if not isinstance(value, list):
        return (_one(value, what),)
    if not value:
        raise RequestError(f"{what} is an empty list; record the claims of a guest")
    return tuple(_one(each, f"{what}, entry {index}") for index, each in enumerate(value))


def _one(value: JsonValue, what: str) -> RecordedClaims:
    if not isinstance(value, dict):
        raise RequestError(f"{what} is not a JSON object; write the claims as an object")
    if not value.keys() >= _REPORT:
        return RecordedClaims(value)
    claims, tee, withheld = value["claims"], value.get("tee"), value.get("withheld_claims")
    if not isinstance(claims, dict) or not claims:
        raise RequestError(
            f"{what} has no claims: {_guest(value)} did not verify; use a guest with "
            "genuine evidence (verdict-py guest list)"
        )
    names = withheld if isinstance(withheld, list) else []
    code = value.get("code")
    return RecordedClaims(
        claims,
        tee if isinstance(tee, str) and tee else None,
        tuple(name for name in names if isinstance(name, str)),
        fault_of(code) if isinstance(code, str) and value["verdict"] != "accepted" else "",
    )


def fault_of(code: str) -> str:
    """Return the code of a refusal unless a policy decided it."""
    return "" if code in (PolicyRefused.code, "ok") else code


def _guest(report: Mapping[str, JsonValue]) -> str:
    name = report.get("id")
    return f"the evidence of guest {quoted(name)}" if isinstance(name, str) else "its evidence"
