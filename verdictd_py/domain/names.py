"""Checked names of stored objects; paths are made from these names only.

A name has one or three segments (storage.md). It is a value, not a path: the storage opens it
segment by segment below a directory descriptor.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Self

from verdictd_py.errors import RequestError

MAX_SEGMENT_BYTES: Final = 255
"""NAME_MAX of Linux file systems; the alphabet is ASCII, so characters are bytes."""

_SEGMENT: Final = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9_.-]*")


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """Name of one or three checked segments: `84688df7-...` or `default/key/1`."""

    segments: tuple[str, ...]

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a name and check each of its segments.

        Raises:
            RequestError: there are not one or three segments, or a segment has characters
                outside the alphabet or is longer than `MAX_SEGMENT_BYTES`. The message does not
                repeat the text, because it may contain anything.
        """
        segments = tuple(text.split("/"))
        if len(segments) not in (1, 3):
            raise RequestError("a name must have one segment, or three separated by '/'")
        for segment in segments:
            if len(segment) > MAX_SEGMENT_BYTES or not _SEGMENT.fullmatch(segment):
                raise RequestError(
                    "a segment of a name must have 1 to 255 characters of A-Z a-z 0-9 _ - . "
                    "and must not begin with '.'"
                )
        return cls(segments)

    def __str__(self) -> str:
        return "/".join(self.segments)


class KeyId(Name):
    """Name of a key: one segment (first generation) or three."""

    __slots__ = ()


class ResourcePath(Name):
    """Name of a resource: always three segments, `<repo>/<type>/<tag>`."""

    __slots__ = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a path and check that it has three segments.

        Raises:
            RequestError: see `Name.parse`; or the path has one segment.
        """
        name = super().parse(text)
        if len(name.segments) != 3:
            raise RequestError("a resource is named <repository>/<type>/<tag>")
        return name


LEGACY_RESOURCES: Final = {  # names of the first generation (wire-eaa.md), paths of storage.md
    "Policy": ResourcePath(("default", "security-policy", "test")),
    "Sigstore Config": ResourcePath(("default", "sigstore-config", "test")),
    "Cosign Key": ResourcePath(("default", "cosign-public-key", "test")),
    "Credential": ResourcePath(("default", "credential", "test")),
    "GPG Keyring": ResourcePath(("default", "gpg-public-config", "test")),
}

RELEASE_POLICY: Final = Name(("releasePolicy.rego",))
RELEASE_DATA: Final = Name(("releaseData",))
RELEASE_POLICIES: Final = Name(("releasePolicies",))
"""JSON document: names of policies by prefix of a path, `{"keys/team-a/": "teamA.rego"}`."""

REFERENCE_SETS: Final = Name(("referenceSets",))
"""JSON document: for each TEE, named sets of reference values by name."""


def parse_resource_name(text: str) -> ResourcePath:
    """Return the resource that a guest of any generation means by `text`.

    Raises:
        RequestError: it is neither a first-generation name nor a path of three segments.
    """
    legacy = LEGACY_RESOURCES.get(text)
    return legacy if legacy is not None else ResourcePath.parse(text)
