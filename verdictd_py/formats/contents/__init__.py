"""Contents that guests read with image-rs: which generation of guests can use them.

The type of a resource, the second segment of its path, selects the check. Sources: image-rs and
sigstore-rs of guest-components v0.8 to v0.21. docs/reference/contents.md is made by these checks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from verdictd_py.domain.names import ResourcePath
from verdictd_py.formats.contents import (
    credentials,
    imagepolicy,
    keyrings,
    lookaside,
    privatekeys,
    signingkeys,
)
from verdictd_py.formats.contents.credentials import Conversion
from verdictd_py.formats.contents.credentials import convert as convert_credential
from verdictd_py.formats.contents.findings import EVERY, NONE, Finding, Findings, Generation
from verdictd_py.formats.contents.keypaths import KeyKind, KeyPath

__all__ = [
    "EVERY",
    "NONE",
    "TYPES",
    "Conversion",
    "Finding",
    "Findings",
    "Generation",
    "KeyKind",
    "KeyPath",
    "check",
    "check_key",
    "convert_credential",
    "is_checked",
    "key_paths",
    "may_be_withheld",
    "names_keys",
    "withheld",
]

MAX_FINDINGS: Final = 20
"""Maximum number of problems, and of warnings; more of them usually have one cause."""

Check = Callable[[bytes], Iterable[Finding]]

IMAGE_POLICY: Final = "security-policy"
COSIGN_KEY: Final = "cosign-public-key"
CREDENTIAL: Final = "credential"
SIGSTORE: Final = "sigstore-config"
KEYRING: Final = "gpg-public-config"

_CHECKS: Final[dict[str, Check]] = {
    IMAGE_POLICY: imagepolicy.check,
    COSIGN_KEY: signingkeys.check,
    CREDENTIAL: credentials.check,
    SIGSTORE: lookaside.check,
    KEYRING: keyrings.check,
}
_KEYS: Final[dict[KeyKind, Check]] = {
    KeyKind.COSIGN: signingkeys.check,
    KeyKind.KEYRING: keyrings.check,
}

TYPES: Final = tuple(_CHECKS)
"""Types of resources that are checked."""


def is_checked(path: ResourcePath) -> bool:
    """Return whether there is a check for resources of this type."""
    return _type(path) in _CHECKS


def check(path: ResourcePath, content: bytes) -> Findings:
    """Check a content by the type of its resource; other types have no findings.

    Args:
        content: any bytes, whose size the caller has limited.

    Returns:
        Problems, for which no guest can use the content, and warnings, `MAX_FINDINGS` of each.
    """
    selected = _CHECKS.get(_type(path))
    return Findings() if selected is None else _bounded(Findings.of(selected(content)))


def check_key(kind: KeyKind, content: bytes) -> Findings:
    """Check a content to which the `keyPath` of an image policy leads."""
    return Findings.of(_KEYS[kind](content))


def names_keys(path: ResourcePath) -> bool:
    """Return whether a resource of this type names other resources as keys."""
    return _type(path) == IMAGE_POLICY


def key_paths(path: ResourcePath, content: bytes) -> tuple[KeyPath, ...]:
    """Return the resources that an image policy names as keys; none for other types."""
    return () if not names_keys(path) else tuple(imagepolicy.key_paths(content))


def may_be_withheld(segments: tuple[str, ...]) -> bool:
    """Return whether `withheld` depends on the content of a resource with this path."""
    return segments[1] in (COSIGN_KEY, KEYRING)


def withheld(segments: tuple[str, ...], content: bytes) -> str:
    """Return why a content must not be served to any guest, with the remedy; else ''.

    A secret key at the place of a public one would be disclosed to every accepted guest.

    Args:
        segments: path of the resource.
    """
    if segments[1] == COSIGN_KEY and privatekeys.has_private_key(content):
        return signingkeys.PRIVATE
    if segments[1] == KEYRING:
        return keyrings.withheld(content)
    return ""


def _type(path: ResourcePath) -> str:
    return path.segments[1]


def _bounded(findings: Findings) -> Findings:
    return Findings(_cut(findings.problems), _cut(findings.warnings), findings.usable)


def _cut(texts: tuple[str, ...]) -> tuple[str, ...]:
    if len(texts) <= MAX_FINDINGS:
        return texts
    listed = MAX_FINDINGS - 1
    return (*texts[:listed], f"and {len(texts) - listed} more")
