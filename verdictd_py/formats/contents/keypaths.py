"""Places of keys in image policies: `keyPath`, as image-rs resolves it (its `resource/mod.rs`)."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from verdictd_py.domain.names import ResourcePath
from verdictd_py.encoding import JsonValue, quoted
from verdictd_py.errors import RequestError
from verdictd_py.formats.contents.findings import NONE, Finding


class KeyKind(StrEnum):
    """Type of a requirement, which decides what its `keyPath` must lead to."""

    COSIGN = "sigstoreSigned"
    KEYRING = "signedBy"


@dataclass(frozen=True, slots=True)
class KeyPath:
    """A key that a policy names as a resource.

    Attributes:
        where: position in the policy.
    """

    where: str
    kind: KeyKind
    resource: ResourcePath


_EXAMPLES: Final[Mapping[str, str]] = {
    KeyKind.COSIGN: "kbs:///default/cosign-public-key/test",
    KeyKind.KEYRING: "kbs:///default/gpg-public-config/test",
}
_KBS: Final = re.compile(r"kbs(?:\+[a-z0-9.+-]*)?://(?P<host>[^/?#]*)/(?P<path>[^?#]*)")
_FILE: Final = re.compile(r"(?:file://)?(?P<path>/.*)", re.DOTALL)


def check(uri: str, kind: JsonValue, where: str) -> Iterator[Finding]:
    """Yield the findings about a `keyPath` that need no other content, at most one."""
    example = _EXAMPLES.get(str(kind), _EXAMPLES[KeyKind.COSIGN])
    if uri.startswith(("kbs:", "kbs+")):
        if _resource(uri) is None:
            yield Finding(
                f"{where}: {quoted(uri)} names no resource, which has three segments; write for "
                f"example {example}"
            )
        return
    file = _FILE.fullmatch(uri)
    if file is None:
        yield Finding(
            f"{where}: guests support kbs:///<repository>/<type>/<tag> and absolute paths of their "
            f"own files; write for example {example}"
        )
    elif kind == KeyKind.COSIGN and file["path"].endswith(".key"):
        yield Finding(
            f"{where}: {quoted(uri)} has the name of a private key, and is a file of the guest; "
            f"store cosign.pub in this broker and write {example}"
        )
    else:
        yield Finding(
            f"{where}: {quoted(uri)} is a file of the guest, which this broker does not provide; "
            f"store the key in this broker and write {example}",
            NONE,
        )


def named(requirement: Mapping[str, JsonValue], where: str) -> Iterator[KeyPath]:
    """Yield the resource that the `keyPath` of a requirement names, if it names one."""
    kind, uri = requirement.get("type"), requirement.get("keyPath")
    if kind in tuple(KeyKind) and isinstance(uri, str):
        resource = _resource(uri.strip())
        if resource is not None:
            yield KeyPath(where, KeyKind(str(kind)), resource)


def _resource(uri: str) -> ResourcePath | None:
    match = _KBS.fullmatch(uri)
    if match is None:
        return None
    try:
        return ResourcePath.parse(match["path"])
    except RequestError:
        return None
