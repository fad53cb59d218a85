"""Checks of members of JSON objects that image policies have in common."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from verdictd_py.encoding import JsonValue, quoted
from verdictd_py.formats.contents.findings import Finding

Problems = Iterator[Finding]


def unknown_type(kind: JsonValue, known: tuple[str, ...]) -> str:
    """Describe an unknown type; the guide's own policy has `" insecureAcceptAnything"`."""
    if isinstance(kind, str) and kind.strip() in known:
        return f'{quoted(kind)} has white space around it; write "{kind.strip()}"'
    cause = (
        f"{quoted(kind)} is unknown" if isinstance(kind, str) else "it is missing or not a string"
    )
    return f"{cause}; the known types are {', '.join(known)}"


def unknown_members(
    members: Mapping[str, JsonValue], known: frozenset[str], where: str
) -> Problems:
    """Report unknown members, for one of which containers/image refuses a whole policy."""
    for name in members:
        if name not in known:
            yield Finding(f"{where}: {quoted(name)} is not a known member")


def white_space(text: str, where: str) -> Problems:
    if text != text.strip():
        yield Finding(
            f"{where}: it has white space around it, so it matches nothing; remove the space"
        )
