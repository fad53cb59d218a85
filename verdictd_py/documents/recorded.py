"""Recorded claims of guests: input files for tests of policies.

A file contains the claims of one guest as a JSON object, or a report that contains them: the
output of `verdict-py explain --json` or `verdictd-py appraise --json`, or the output of
`verdict-py guest list --json`. It may also contain the input of a release policy.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from verdictd_py.encoding import JsonValue, decode_value, quoted
from verdictd_py.errors import PolicyRefused, RequestError

MAX_RECORDED_BYTES: Final = 4 * 1024 * 1024
"""Maximum size of a file: a guest's claims have at most 1 MiB, and reports are indented."""

_MAX_CONTAINERS: Final = 100_000
"""Maximum number of objects and arrays in a file, sufficient for a log of 1,023 events."""

_MAX_VALUES: Final = 10 * _MAX_CONTAINERS
"""Values of every type together."""

_REPORT: Final = frozenset({"claims", "verdict"})
"""Members of every report; the input of a release policy has no `verdict`."""


@dataclass(frozen=True, slots=True)
class RecordedClaims:
    """Claims of one guest, as an operator recorded them.

    Attributes:
        claims: input of the policy.
        tee: TEE in the report; None for claims without a report.
        withheld: names of claims that the guest had and that the report does not contain.
        fault: code of a refusal that was not a policy's decision; empty for any other guest.
    """

    claims: Mapping[str, JsonValue]
    tee: str | None = None
    withheld: tuple[str, ...] = ()
    fault: str = ""

    @property
    def for_release(self) -> bool:
        """Whether the claims are the input of a release policy, which names a resource."""
        return isinstance(self.claims.get("resource"), dict)


def read_recorded(data: bytes, what: str) -> tuple[RecordedClaims, ...]:
    """Read a file of recorded claims; only a list can have several guests.

    Args:
        what: name of the file in messages.

    Raises:
        RequestError: the file is too large, not JSON, or contains no claims.
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
    if isinstance(value, dict) and isinstance(value.get("schema"), str) and "items" in value:
        value = value["items"]
    if not isinstance(value, list):
        return (_read_guest(value, what),)
    if not value:
        raise RequestError(f"{what} is an empty list; record the claims of a guest")
    return tuple(_read_guest(entry, f"{what}, entry {index}") for index, entry in enumerate(value))


def _read_guest(value: JsonValue, what: str) -> RecordedClaims:
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
    """Return the code of a refusal, empty if it was a policy's decision."""
    return "" if code in (PolicyRefused.code, "ok") else code


def _guest(report: Mapping[str, JsonValue]) -> str:
    name = report.get("id")
    return f"the evidence of guest {quoted(name)}" if isinstance(name, str) else "its evidence"
