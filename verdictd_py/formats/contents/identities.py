"""Identities that a signature must claim: `signedIdentity` of containers-policy.json(5)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from verdictd_py.encoding import JsonValue, quoted
from verdictd_py.formats.contents.findings import Finding
from verdictd_py.formats.contents.members import unknown_members, unknown_type, white_space
from verdictd_py.formats.contents.scopes import DIGEST, DOMAIN, PATH

_MEMBERS: Final = {  # containers-policy.json(5), signedIdentity: type -> its members
    "matchExact": (),
    "matchRepoDigestOrExact": (),
    "matchRepository": (),
    "exactReference": ("dockerReference",),
    "exactRepository": ("dockerRepository",),
    "remapIdentity": ("prefix", "signedPrefix"),
}
ALL: Final = tuple(_MEMBERS)
"""Types of identities."""

_REFERENCE: Final = re.compile(  # the grammar of distribution/reference, its ParseNormalizedNamed
    rf"(?P<name>(?:{DOMAIN}/)?{PATH}(?:/{PATH})*)"
    rf"(?::(?P<tag>[a-zA-Z0-9_][a-zA-Z0-9_.-]{{0,127}}))?(?:@(?P<digest>{DIGEST}))?"
)
_PREFIX: Final = re.compile(rf"{DOMAIN}(?:/{PATH})*")
_IMAGE_ID: Final = re.compile(r"[0-9a-f]{64}")
_MAX_NAME_CHARACTERS: Final = 255  # distribution/reference, RepositoryNameTotalLengthMax
_MAX_REFERENCE_CHARACTERS: Final = 520  # with `:`, a tag of 128, `@` and the longest digest

Problems = Iterator[Finding]


def check(requirement: Mapping[str, JsonValue], where: str, accepted: tuple[str, ...]) -> Problems:
    at = f"{where}.signedIdentity"
    if "signedIdentity" not in requirement:
        return
    identity = requirement["signedIdentity"]
    if not isinstance(identity, dict):
        yield Finding(f"{at}: it is not an object")
        return
    kind = identity.get("type")
    members = _MEMBERS.get(kind) if isinstance(kind, str) else None
    if members is None:
        yield Finding(f"{at}.type: {unknown_type(kind, tuple(_MEMBERS))}")
        return
    if kind not in accepted:
        remedy = " or ".join(accepted)
        yield Finding(f"{at}.type: with {kind} guests refuse every image; write {remedy}")
    yield from unknown_members(identity, frozenset({"type", *members}), at)
    for name in members:
        value = identity.get(name)
        if not isinstance(value, str) or not value:
            yield Finding(f"{at}.{name}: it is missing or not a string")
        else:
            yield from white_space(value, f"{at}.{name}")
            yield from _name(name, value.strip(), f"{at}.{name}")


def _name(member: str, value: str, where: str) -> Problems:
    if member in {"prefix", "signedPrefix"}:
        if len(value) > _MAX_NAME_CHARACTERS or not _PREFIX.fullmatch(value):
            yield Finding(
                f"{where}: {quoted(value)} is neither a registry nor the start of an image's name"
            )
        return
    reference = _reference(value)
    if reference is None:
        yield Finding(f"{where}: {quoted(value)} is not the name of an image")
        return
    tagged = reference["tag"] or reference["digest"]
    if member == "dockerReference" and not tagged:
        yield Finding(f"{where}: {quoted(value)} has neither tag nor digest")
    if member == "dockerRepository" and tagged:
        yield Finding(
            f"{where}: {quoted(value)} has a tag or digest; guests find no image of that name"
        )


def _reference(text: str) -> re.Match[str] | None:
    if len(text) > _MAX_REFERENCE_CHARACTERS or _IMAGE_ID.fullmatch(text):
        return None
    match = _REFERENCE.fullmatch(text)
    if match is None or len(match["name"]) > _MAX_NAME_CHARACTERS:
        return None
    first, slash, _ = match["name"].partition("/")
    if slash and ("." in first or ":" in first):
        return match
    # The first part is not a registry, so it must have the form of a path.
    return match if re.fullmatch(PATH, first) else None
