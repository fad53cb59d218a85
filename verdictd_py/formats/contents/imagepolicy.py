"""Image policies: containers-policy.json(5), as guests and containers/image read it.

Two programs read them: containers/image (skopeo, podman) by containers-policy.json(5), and
image-rs in the guest. A policy that either of them refuses has a problem here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from verdictd_py.encoding import JsonValue, decode_base64, decode_object, encode_base64, quoted
from verdictd_py.errors import RequestError
from verdictd_py.formats.contents import identities, keypaths, keyrings, scopes, signingkeys
from verdictd_py.formats.contents.findings import NONE, Finding
from verdictd_py.formats.contents.keypaths import KeyPath
from verdictd_py.formats.contents.members import unknown_members, unknown_type, white_space
from verdictd_py.formats.contents.scopes import DIGEST

_TYPES: Final = (
    "insecureAcceptAnything",
    "reject",
    "signedBy",
    "sigstoreSigned",
)
_SIMPLE: Final = frozenset({"type"})
_SIGNED_BY: Final = frozenset(
    {"type", "keyType", "keyPath", "keyPaths", "keyData", "signedIdentity"}
)
_SIGSTORE: Final = frozenset(
    {
        *("type", "keyPath", "keyPaths", "keyData", "keyDatas", "fulcio", "pki"),
        *("rekorPublicKeyPath", "rekorPublicKeyPaths", "rekorPublicKeyData"),
        *("rekorPublicKeyDatas", "signedIdentity"),
    }
)
_REKOR: Final = (
    *("rekorPublicKeyPath", "rekorPublicKeyPaths"),
    *("rekorPublicKeyData", "rekorPublicKeyDatas"),
)
"""Guests ignore these; containers/image allows one of them, and checks its type."""
_NOT_IN_GUESTS: Final = ("keyPaths", "keyDatas", "fulcio", "pki")
"""image-rs supports only one `keyPath` or `keyData` (its `signature/policy/`)."""
_COSIGN_IDENTITIES: Final = ("matchRepository", "exactRepository")
"""image-rs refuses every image with another type: cosign signs a repository, not a tag
(its `signature/policy/cosign/`, `check_reference_rule_types`)."""

_DOCKER: Final = "docker"
_MAX_NAMED: Final = 10
_PATHS: Final = frozenset({"dir", "oci", "oci-archive", "sif"})
_NO_SCOPES: Final = frozenset({"docker-archive", "tarball"})
"""Transports whose scopes containers/image checks (`ValidatePolicyConfigurationScope`)."""

Problems = Iterator[Finding]


def check(content: bytes) -> Problems:
    """Yield the findings about a containers-policy.json, each with its position.

    Args:
        content: any bytes, whose size the caller has limited.
    """
    try:
        policy = decode_object(content, "the image policy")
    except RequestError as error:
        yield Finding(str(error))
        return
    yield from _policy(policy)


def key_paths(content: bytes) -> Iterator[KeyPath]:
    """Yield the keys that a policy names as resources of this broker, with their position.

    Nothing is yielded for a policy that cannot be read, or for a wrong `keyPath`: `check` reports
    them.
    """
    try:
        policy = decode_object(content, "the image policy")
    except RequestError:
        return
    for where, requirements in _rules(policy):
        for index, requirement in enumerate(requirements if isinstance(requirements, list) else ()):
            if isinstance(requirement, dict):
                yield from keypaths.named(requirement, f"{where}[{index}].keyPath")


def _rules(policy: Mapping[str, JsonValue]) -> Iterator[tuple[str, JsonValue]]:
    """Yield the requirements of the default and of each scope that guests look up."""
    yield "default", policy.get("default")
    transports = policy.get("transports")
    of_docker = transports.get(_DOCKER) if isinstance(transports, dict) else None
    if isinstance(of_docker, dict):
        for scope, requirements in of_docker.items():
            yield f"transports.{quoted(_DOCKER)}.{quoted(scope)}", requirements


def _policy(policy: Mapping[str, JsonValue]) -> Problems:
    yield from unknown_members(policy, frozenset({"default", "transports"}), "the policy")
    if "default" in policy:
        yield from _requirements(policy["default"], "default")
    else:
        yield Finding('default: it is missing; write "default": [{"type": "reject"}]')
    if "transports" not in policy:
        yield Finding(
            "transports: it is missing, and guests cannot read the policy without it (skopeo can); "
            'add "transports": {}'
        )
        return
    transports = policy["transports"]
    if not isinstance(transports, dict):
        yield Finding("transports: it is not an object")
        return
    for transport, scopes_of in transports.items():
        yield from _transport(transport, scopes_of, f"transports.{quoted(transport)}")
    yield from _ineffective(transports)


def _ineffective(transports: Mapping[str, JsonValue]) -> Problems:
    """Report transports that guests never use: they fetch every image with `docker`."""
    others = [name for name in transports if name != _DOCKER and name == name.strip()]
    if not others:
        return
    named = ", ".join(map(quoted, others[:_MAX_NAMED]))
    if _DOCKER in transports:
        yield Finding(f"transports: guests ignore {named}; they fetch images with 'docker'", NONE)
    else:
        yield Finding(
            f"transports: guests fetch images with 'docker', so no image is in {named} and the "
            'default decides about every image; add "docker": {...}, or write "transports": {}'
        )


def _transport(transport: str, scopes_of: JsonValue, where: str) -> Problems:
    yield from white_space(transport, where)
    if not isinstance(scopes_of, dict):
        yield Finding(f"{where}: it is not an object of scopes")
        return
    for scope, requirements in scopes_of.items():
        at = f"{where}.{quoted(scope)}"
        yield from white_space(scope, at)
        yield from _scope(transport, scope.strip(), at)
        yield from _requirements(requirements, at)


def _scope(transport: str, scope: str, where: str) -> Problems:
    """Check a scope; an empty one means the whole transport, for every transport."""
    if not scope:
        return
    if transport == _DOCKER:
        problem = scopes.problem(scope)
        if problem:
            yield Finding(f"{where}: {problem}")
        elif remark := scopes.remark(scope):
            yield Finding(f"{where}: {remark}", NONE)
    elif transport == "docker-daemon" and re.fullmatch(DIGEST, scope):
        yield Finding(f"{where}: a digest is not a scope of it")
    elif transport in _NO_SCOPES:
        yield Finding(f'{where}: the only scope of it is ""')
    elif transport in _PATHS and not _is_clean_path(scope):
        yield Finding(
            f"{where}: it must be an absolute path without '.', '..', '//' or '/' at its end"
        )
    elif transport == "containers-storage" and not scope.startswith("["):
        yield Finding(f"{where}: it must begin with the store, in brackets")


def _is_clean_path(path: str) -> bool:
    return path.startswith("/") and not {"", ".", ".."} & set(path[1:].split("/"))


def _requirements(requirements: JsonValue, where: str) -> Problems:
    if not isinstance(requirements, list):
        yield Finding(f"{where}: it is not a list of requirements")
        return
    if not requirements:
        yield Finding(f'{where}: the list is empty; write [{{"type": "reject"}}] to refuse')
    for index, requirement in enumerate(requirements):
        at = f"{where}[{index}]"
        if isinstance(requirement, dict):
            yield from _requirement(requirement, at)
        else:
            yield Finding(f"{at}: it is not an object")


def _requirement(requirement: Mapping[str, JsonValue], where: str) -> Problems:
    kind = requirement.get("type")
    if kind in ("insecureAcceptAnything", "reject"):
        yield from unknown_members(requirement, _SIMPLE, where)
    elif kind == "signedBy":
        yield from unknown_members(requirement, _SIGNED_BY, where)
        if requirement.get("keyType") != "GPGKeys":
            yield Finding(f'{where}.keyType: it must be "GPGKeys"')
        yield from _one_key(requirement, where)
        yield from identities.check(requirement, where, identities.ALL)
    elif kind == "sigstoreSigned":
        yield from unknown_members(requirement, _SIGSTORE, where)
        yield from _one_key(requirement, where)
        yield from _rekor(requirement, where)
        yield from identities.check(requirement, where, _COSIGN_IDENTITIES)
    elif kind == "signedBaseLayer":
        yield Finding(f"{where}: guests do not support signedBaseLayer, and refuse every image")
    else:
        yield Finding(f"{where}.type: {unknown_type(kind, _TYPES)}")


def _one_key(requirement: Mapping[str, JsonValue], where: str) -> Problems:
    for name in _NOT_IN_GUESTS:
        if name in requirement:
            yield Finding(
                f"{where}.{name}: guests do not support it, and refuse every image of the scope; "
                "write keyPath or keyData"
            )
    given = [name for name in ("keyPath", "keyData") if name in requirement]
    if len(given) != 1 and not any(name in requirement for name in _NOT_IN_GUESTS):
        yield Finding(
            f"{where}: exactly one of keyPath and keyData is needed, there are {len(given)}"
        )
    for name in given:
        value = requirement[name]
        if not isinstance(value, str) or not value:
            yield Finding(f"{where}.{name}: it is not a string")
        elif name == "keyPath":
            yield from white_space(value, f"{where}.keyPath")
            yield from keypaths.check(value.strip(), requirement.get("type"), f"{where}.keyPath")
        elif requirement.get("type") == "sigstoreSigned":
            yield from _cosign_key(value, f"{where}.keyData")
        elif _is_base64(value):
            yield from _at(f"{where}.keyData", keyrings.check(decode_base64(value, "it")))
        else:
            yield Finding(f"{where}.keyData: it is not base64")


def _cosign_key(key_data: str, where: str) -> Problems:
    """Check a key that guests read as PEM, and containers/image as base64 of PEM."""
    if _is_base64(key_data):
        yield Finding(
            f"{where}: guests read it as PEM, containers/image as base64; write keyPath, or the "
            "text of cosign.pub"
        )
    else:
        yield from _at(where, signingkeys.check(key_data.encode()))


def _at(where: str, findings: Problems) -> Problems:
    for finding in findings:
        yield replace(finding, text=f"{where}: {finding.text}")


def _rekor(requirement: Mapping[str, JsonValue], where: str) -> Problems:
    given = [name for name in _REKOR if name in requirement]
    if len(given) > 1:
        yield Finding(f"{where}: at most one of {', '.join(_REKOR)} is allowed")
    for name in given:
        value = requirement[name]
        several = name.endswith("s")
        values = value if several and isinstance(value, list) else [] if several else [value]
        if not values or not all(isinstance(element, str) and element for element in values):
            wanted = "list of strings" if several else "string"
            yield Finding(f"{where}.{name}: it is not a {wanted}")
        elif "Data" in name and not all(_is_base64(str(element)) for element in values):
            yield Finding(f"{where}.{name}: it is not base64")


def _is_base64(text: str) -> bool:
    """Return whether guests can decode `text`: the bits that pad the last byte are zero."""
    try:
        return encode_base64(decode_base64(text, "it")) == text
    except RequestError:
        return False
