"""Scopes of images in policies and lookaside configurations, as image-rs matches them.

image-rs looks up the whole reference, then the repository, each of its parents, the host, and
`*.` with each parent domain of the host without port (its `signature/image/mod.rs`). It expands a
reference first: `busybox` is `docker.io/library/busybox`, `index.docker.io` is `docker.io`.
"""

from __future__ import annotations

import re
from typing import Final

LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
DOMAIN: Final = rf"{LABEL}(?:\.{LABEL})*(?::[0-9]+)?"
PATH: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
DIGEST: Final = r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}"

_SCOPE: Final = re.compile(
    rf"(?P<host>{DOMAIN})(?P<path>(?:/{PATH})*)"
    rf"(?P<version>(?::[a-zA-Z0-9_][a-zA-Z0-9_.-]{{0,127}})?(?:@(?:{DIGEST}))?)"
)
_WILDCARD: Final = re.compile(rf"\*(?:\.{LABEL})+")
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")

_HUB: Final = "docker.io"
_HUB_NAMES: Final = frozenset({"index.docker.io"})
"""Names of Docker Hub that image-rs replaces by `docker.io` before it looks up a scope."""

_OFFICIAL: Final = frozenset(
    {
        *("alpine", "almalinux", "busybox", "debian", "fedora", "hello-world", "httpd"),
        *("memcached", "golang", "openjdk", "php", "python", "rabbitmq", "ruby", "rust"),
    }
)
"""Official images of Docker Hub whose name is not that of a well-known namespace."""

_ALSO_NAMESPACES: Final = frozenset(
    {"nginx", "ubuntu", "redis", "mysql", "postgres", "mongo", "node", "traefik", "vault"}
)
"""Official images of Docker Hub whose name is, or may be, that of a namespace, too."""

_MAX_SHOWN: Final = 120


def problem(scope: str) -> str:
    """Return why no image is in a scope of the transport `docker`, with the remedy; else ''."""
    scheme = _SCHEME.match(scope)
    if scheme:
        return f"a scope has no scheme, so no image is in it{_instead(scope[scheme.end() :])}"
    if scope.endswith("/"):
        return "no image is in a scope that ends with '/'; remove the '/'"
    if "*" in scope:
        return _wildcard_problem(scope)
    host, slash, rest = scope.partition("/")
    if host.lower() in _HUB_NAMES:
        remedy = _instead(_HUB + slash + rest)
        return f"guests replace {host} by {_HUB}, so no image is in it{remedy}"
    if _is_host(host):
        return _host_problem(scope, host, rest)
    return f"it does not begin with a registry, so no image is in it{_instead(_expanded(scope))}"


def remark(scope: str) -> str:
    """Return what an operator may not expect of a scope without problem; else ''."""
    host, _, name = scope.partition("/")
    if host == _HUB and name in _ALSO_NAMESPACES:
        return (
            f"it contains the images {scope}/... only; the official image is {_HUB}/library/{name}"
        )
    return ""


def _wildcard_problem(scope: str) -> str:
    if _WILDCARD.fullmatch(scope):
        return ""
    before, _, _ = scope.partition("*")
    remedy = before.rstrip("/") if before.endswith("/") else ""
    suggestion = _instead(remedy) if remedy and not problem(remedy) else ""
    return (
        "no image is in it: '*' is only possible in place of the first label of a host, without "
        f"port and path (*.example.com){suggestion}"
    )


def _host_problem(scope: str, host: str, rest: str) -> str:
    if host != host.lower():
        lower = f"{host.lower()}{scope[len(host) :]}"
        return f"a host is written in small letters, so no image is in it{_instead(lower)}"
    match = _SCOPE.fullmatch(scope)
    if match is None or (match["version"] and not match["path"]):
        return "it is neither a host, nor a part of an image's name, so no image is in it"
    name, _, version = rest.partition(":")
    is_one = bool(name) and "/" not in rest
    if host == _HUB and is_one and (version or "@" in rest or name in _OFFICIAL):
        return (
            f"guests look up this image as {_HUB}/library/{rest}, which is not in it"
            f"{_instead(f'{_HUB}/library/{rest}')}"
        )
    return ""


def _is_host(text: str) -> bool:
    """Return whether the first part of a reference is a host and not a path."""
    name, colon, port = text.partition(":")
    return "." in name or name == "localhost" or (bool(colon) and port.isdecimal())


def _expanded(scope: str) -> str:
    """Return a short name as guests expand it."""
    return f"{_HUB}/{scope}" if "/" in scope else f"{_HUB}/library/{scope}"


def _instead(suggestion: str) -> str:
    """Return the remedy. A suggestion that is wrong in another way is corrected, too."""
    if not suggestion or len(suggestion) > _MAX_SHOWN or not suggestion.isascii():
        return ""
    further = problem(suggestion)
    if further:
        _, found, better = further.rpartition("; write ")
        return f"; write {better}" if found else ""
    return f"; write {suggestion}" if suggestion.isprintable() else ""
