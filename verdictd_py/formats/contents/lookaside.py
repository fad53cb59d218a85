"""Lookaside configurations (containers-registries.d(5)), as guests read them.

image-rs decodes `default-docker` and `docker` with serde_yaml; each entry needs `sigstore` with a
URL of the scheme `file` (its `signature/policy/simple/sigstore.rs`). One wrong entry makes it
refuse the whole file, and with it every image.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from verdictd_py.encoding import quoted
from verdictd_py.formats.contents import scopes
from verdictd_py.formats.contents.findings import NONE, Finding
from verdictd_py.formats.contents.yamlmappings import (
    NotMappings,
    Unsupported,
    Value,
    parse,
)

_FILE_URL: Final = re.compile(r"file:.+", re.IGNORECASE)
_REMEDY: Final = "write 'sigstore: file:///var/lib/containers/sigstore'"
_KNOWN: Final = frozenset({"default-docker", "docker"})


def check(content: bytes) -> Iterator[Finding]:
    """Yield the findings about a lookaside configuration, each with its position.

    Args:
        content: any bytes, whose size the caller has limited.
    """
    try:
        top = parse(content)
    except NotMappings as error:
        yield Finding(f"it is not valid YAML of mappings: {error}")
        return
    except Unsupported as error:
        yield Finding(
            f"this broker cannot verify it: {error}; write mappings with one member a line", NONE
        )
        return
    for name in top:
        if name not in _KNOWN:
            yield Finding(
                f"{quoted(name)}: guests ignore it; they read default-docker and docker", NONE
            )
    if top.get("default-docker") is not None:
        yield from _entry(top["default-docker"], "default-docker")
    namespaces = top.get("docker")
    if namespaces is None:
        return
    if not isinstance(namespaces, dict):
        yield Finding("docker: it is not a mapping of namespaces")
        return
    for namespace, entry in namespaces.items():
        where = f"docker.{quoted(namespace)}"
        problem = scopes.problem(namespace)
        if problem:
            yield Finding(f"{where}: {problem}")
        yield from _entry(entry, where)


def _entry(entry: Value, where: str) -> Iterator[Finding]:
    if not isinstance(entry, dict):
        yield Finding(f"{where}: it is not a mapping; {_REMEDY}")
        return
    if "sigstore" not in entry:
        yield Finding(f"{where}: sigstore is missing{_instead_of(entry)}; {_REMEDY}")
        return
    url = entry["sigstore"]
    if not isinstance(url, str):
        yield Finding(f"{where}.sigstore: it is not text; {_REMEDY}")
    elif not _FILE_URL.fullmatch(url):
        yield Finding(
            f"{where}.sigstore: {quoted(url)} is not a URL of the scheme file, the only one that "
            f"guests support; {_REMEDY}"
        )


def _instead_of(entry: Mapping[str, Value]) -> str:
    if "lookaside" in entry:
        return "; guests do not know its newer name lookaside"
    if "use-sigstore-attachments" in entry:
        return "; guests need no use-sigstore-attachments to verify cosign signatures"
    return ""
