"""Validation of image policies, before a guest uses them.

Two programs read them: containers/image (skopeo, podman) by containers-policy.json(5), and
image-rs in the guest. A policy that either of them refuses has a problem here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Final

from verdictd_py.encoding import JsonValue, decode_base64, decode_object, encode_base64, quoted
from verdictd_py.errors import RequestError

MAX_PROBLEMS: Final = 20
"""Largest number of reported problems; more of them usually have one cause."""

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
_IDENTITIES: Final = {  # containers-policy.json(5), signedIdentity: type -> its members
    "matchExact": (),
    "matchRepoDigestOrExact": (),
    "matchRepository": (),
    "exactReference": ("dockerReference",),
    "exactRepository": ("dockerRepository",),
    "remapIdentity": ("prefix", "signedPrefix"),
}
_NOT_IN_GUESTS: Final = ("keyPaths", "keyDatas", "fulcio", "pki")
"""image-rs supports only one `keyPath` or `keyData` (its `signature/policy/`)."""
_COSIGN_IDENTITIES: Final = ("matchRepository", "exactRepository")
"""image-rs refuses every image with another type: cosign signs a repository, not a tag
(its `signature/policy/cosign/`, `check_reference_rule_types`)."""

_PATHS: Final = frozenset({"dir", "oci", "oci-archive", "sif"})
_NO_SCOPES: Final = frozenset({"docker-archive", "tarball"})
"""Transports whose scopes containers/image checks (`ValidatePolicyConfigurationScope`)."""

_LABEL: Final = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?"
_DOMAIN: Final = rf"{_LABEL}(?:\.{_LABEL})*(?::[0-9]+)?"
_PATH: Final = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_DIGEST: Final = r"sha256:[0-9a-f]{64}|sha384:[0-9a-f]{96}|sha512:[0-9a-f]{128}"
_REFERENCE: Final = re.compile(  # the grammar of distribution/reference, its ParseNormalizedNamed
    rf"(?P<name>(?:{_DOMAIN}/)?{_PATH}(?:/{_PATH})*)"
    rf"(?::(?P<tag>[a-zA-Z0-9_][a-zA-Z0-9_.-]{{0,127}}))?(?:@(?P<digest>{_DIGEST}))?"
)
_PREFIX: Final = re.compile(rf"{_DOMAIN}(?:/{_PATH})*")
_IMAGE_ID: Final = re.compile(r"[0-9a-f]{64}")
_MAX_NAME_CHARACTERS: Final = 255  # distribution/reference, RepositoryNameTotalLengthMax
_MAX_REFERENCE_CHARACTERS: Final = 520  # with `:`, a tag of 128, `@` and the longest digest

Problems = Iterator[str]


def problems(content: bytes) -> tuple[str, ...]:
    """Return the problems of a containers-policy.json, one line each with its position.

    Args:
        content: any bytes, whose size the caller has limited.

    Returns:
        An empty tuple for a valid policy, otherwise at most `MAX_PROBLEMS` lines.
    """
    try:
        policy = decode_object(content, "the image policy")
    except RequestError as error:
        return (str(error),)
    lines = tuple(_policy(policy))
    if len(lines) > MAX_PROBLEMS:
        listed = MAX_PROBLEMS - 1
        return (*lines[:listed], f"and {len(lines) - listed} more")
    return lines


def _policy(policy: Mapping[str, JsonValue]) -> Problems:
    yield from _unknown_members(policy, frozenset({"default", "transports"}), "the policy")
    if "default" in policy:
        yield from _requirements(policy["default"], "default")
    else:
        yield 'default: it is missing; write "default": [{"type": "reject"}]'
    transports = policy.get("transports", {})
    if not isinstance(transports, dict):
        yield "transports: it is not an object"
        return
    for transport, scopes in transports.items():
        where = f"transports.{quoted(transport)}"
        yield from _white_space(transport, where)
        if not isinstance(scopes, dict):
            yield f"{where}: it is not an object of scopes"
            continue
        for scope, requirements in scopes.items():
            at = f"{where}.{quoted(scope)}"
            yield from _white_space(scope, at)
            yield from _scope(transport, scope, at)
            yield from _requirements(requirements, at)


def _scope(transport: str, scope: str, where: str) -> Problems:
    """Check a scope; an empty one means the whole transport, for every transport."""
    if not scope:
        return
    if transport == "docker" and scope.endswith("/"):
        yield f"{where}: no image is in a scope that ends with '/'; remove the '/'"
    elif transport == "docker-daemon" and re.fullmatch(_DIGEST, scope):
        yield f"{where}: a digest is not a scope of it"
    elif transport in _NO_SCOPES:
        yield f'{where}: the only scope of it is ""'
    elif transport in _PATHS and not _is_clean_path(scope):
        yield f"{where}: it must be an absolute path without '.', '..', '//' or '/' at its end"
    elif transport == "containers-storage" and not scope.startswith("["):
        yield f"{where}: it must begin with the store, in brackets"


def _is_clean_path(path: str) -> bool:
    return path.startswith("/") and not {"", ".", ".."} & set(path[1:].split("/"))


def _requirements(requirements: JsonValue, where: str) -> Problems:
    if not isinstance(requirements, list):
        yield f"{where}: it is not a list of requirements"
        return
    if not requirements:
        yield f'{where}: the list is empty; write [{{"type": "reject"}}] to refuse'
    for index, requirement in enumerate(requirements):
        at = f"{where}[{index}]"
        if isinstance(requirement, dict):
            yield from _requirement(requirement, at)
        else:
            yield f"{at}: it is not an object"


def _requirement(requirement: Mapping[str, JsonValue], where: str) -> Problems:
    kind = requirement.get("type")
    if kind in ("insecureAcceptAnything", "reject"):
        yield from _unknown_members(requirement, _SIMPLE, where)
    elif kind == "signedBy":
        yield from _unknown_members(requirement, _SIGNED_BY, where)
        if requirement.get("keyType") != "GPGKeys":
            yield f'{where}.keyType: it must be "GPGKeys"'
        yield from _one_key(requirement, where)
        yield from _identity(requirement, where, tuple(_IDENTITIES))
    elif kind == "sigstoreSigned":
        yield from _unknown_members(requirement, _SIGSTORE, where)
        yield from _one_key(requirement, where)
        if "keyData" in requirement:
            yield f"{where}.keyData: guests read it as PEM, others as base64; write keyPath"
        yield from _rekor(requirement, where)
        yield from _identity(requirement, where, _COSIGN_IDENTITIES)
    elif kind == "signedBaseLayer":
        yield f"{where}: guests do not support signedBaseLayer, and refuse every image"
    else:
        yield f"{where}.type: {_unknown(kind, _TYPES)}"


def _one_key(requirement: Mapping[str, JsonValue], where: str) -> Problems:
    for name in _NOT_IN_GUESTS:
        if name in requirement:
            yield f"{where}.{name}: guests do not support it; write keyPath or keyData"
    given = [name for name in ("keyPath", "keyData") if name in requirement]
    if len(given) != 1 and not any(name in requirement for name in _NOT_IN_GUESTS):
        yield f"{where}: exactly one of keyPath and keyData is needed, there are {len(given)}"
    for name in given:
        value = requirement[name]
        if not isinstance(value, str) or not value:
            yield f"{where}.{name}: it is not a string"
        elif name == "keyPath":
            yield from _white_space(value, f"{where}.keyPath")
        elif not _is_base64(value):
            yield f"{where}.keyData: it is not base64"


def _rekor(requirement: Mapping[str, JsonValue], where: str) -> Problems:
    given = [name for name in _REKOR if name in requirement]
    if len(given) > 1:
        yield f"{where}: at most one of {', '.join(_REKOR)} is allowed"
    for name in given:
        value = requirement[name]
        several = name.endswith("s")
        values = value if several and isinstance(value, list) else [] if several else [value]
        if not values or not all(isinstance(element, str) and element for element in values):
            yield f"{where}.{name}: it is not a {'list of strings' if several else 'string'}"
        elif "Data" in name and not all(_is_base64(str(element)) for element in values):
            yield f"{where}.{name}: it is not base64"


def _identity(
    requirement: Mapping[str, JsonValue], where: str, accepted: tuple[str, ...]
) -> Problems:
    at = f"{where}.signedIdentity"
    if "signedIdentity" not in requirement:
        return
    identity = requirement["signedIdentity"]
    if not isinstance(identity, dict):
        yield f"{at}: it is not an object"
        return
    kind = identity.get("type")
    members = _IDENTITIES.get(kind) if isinstance(kind, str) else None
    if members is None:
        yield f"{at}.type: {_unknown(kind, tuple(_IDENTITIES))}"
        return
    if kind not in accepted:
        yield f"{at}.type: with {kind} guests refuse every image; write {' or '.join(accepted)}"
    yield from _unknown_members(identity, frozenset({"type", *members}), at)
    for name in members:
        value = identity.get(name)
        if not isinstance(value, str) or not value:
            yield f"{at}.{name}: it is missing or not a string"
        else:
            yield from _white_space(value, f"{at}.{name}")
            yield from _name(name, value.strip(), f"{at}.{name}")


def _name(member: str, value: str, where: str) -> Problems:
    if member in {"prefix", "signedPrefix"}:
        if len(value) > _MAX_NAME_CHARACTERS or not _PREFIX.fullmatch(value):
            yield f"{where}: {quoted(value)} is neither a registry nor the start of an image's name"
        return
    reference = _reference(value)
    if reference is None:
        yield f"{where}: {quoted(value)} is not the name of an image"
        return
    tagged = reference["tag"] or reference["digest"]
    if member == "dockerReference" and not tagged:
        yield f"{where}: {quoted(value)} has neither tag nor digest"
    if member == "dockerRepository" and tagged:
        yield f"{where}: {quoted(value)} has a tag or digest; guests find no image of that name"


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
    return match if re.fullmatch(_PATH, first) else None


def _unknown(kind: JsonValue, known: tuple[str, ...]) -> str:
    """Describe an unknown type; the guide's own policy has `" insecureAcceptAnything"`."""
    if isinstance(kind, str) and kind.strip() in known:
        return f'{quoted(kind)} has white space around it; write "{kind.strip()}"'
    cause = (
        f"{quoted(kind)} is unknown" if isinstance(kind, str) else "it is missing or not a string"
    )
    return f"{cause}; the known types are {', '.join(known)}"


def _unknown_members(
    members: Mapping[str, JsonValue], known: frozenset[str], where: str
) -> Problems:
    """Report unknown members, for one of which containers/image refuses a whole policy."""
    for name in members:
        if name not in known:
            yield f"{where}: {quoted(name)} is not a known member"


def _white_space(text: str, where: str) -> Problems:
    if text != text.strip():
        yield f"{where}: it has white space around it, so it matches nothing; remove the space"


def _is_base64(text: str) -> bool:
    """Return whether guests can decode `text`: the bits that pad the last byte are zero."""
    try:
        return encode_base64(decode_base64(text, "it")) == text
    except RequestError:
        return False
