"""What is wrong with an image policy, before a guest finds out.

Two readers decide what works: containers/image (skopeo, podman) as in
containers-policy.json(5), and image-rs in the guest. Where either refuses, this does.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from verdictd_py.domain.encoding import decode_base64, decode_object, shown
from verdictd_py.domain.evidence import JsonValue
from verdictd_py.errors import RequestError

MAX_PROBLEMS: Final = 20
"""Lines; who has more of them has one mistake in many places."""

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
_IDENTITIES: Final = {  # containers-policy.json(5), signedIdentity: type -> its members
    "matchExact": (),
    "matchRepoDigestOrExact": (),
    "matchRepository": (),
    "exactReference": ("dockerReference",),
    "exactRepository": ("dockerRepository",),
    "remapIdentity": ("prefix", "signedPrefix"),
}
_NOT_IN_GUESTS: Final = ("keyPaths", "keyDatas", "fulcio", "pki")
"""image-rs knows one `keyPath` or `keyData` (its `signature/policy/`)."""

Problems = Iterator[str]


def problems(content: bytes) -> tuple[str, ...]:
    """What is wrong with a containers-policy.json, a line each that says where.

    Args:
        content: of any kind and size that the caller has bounded.

    Returns:
        Nothing for a policy that works, at most `MAX_PROBLEMS` otherwise.
    """
    try:
        policy = decode_object(content, "the image policy")
    except RequestError as error:
        return (str(error),)
    found = tuple(_policy(policy))
    if len(found) > MAX_PROBLEMS:
        return (*found[:MAX_PROBLEMS], f"and {len(found) - MAX_PROBLEMS} more")
    return found


def _policy(policy: Mapping[str, JsonValue]) -> Problems:
    yield from _strange(policy, frozenset({"default", "transports"}), "the policy")
    if "default" in policy:
        yield from _requirements(policy["default"], "default")
    else:
        yield 'default: it is missing; write "default": [{"type": "reject"}]'
    transports = policy.get("transports", {})
    if not isinstance(transports, dict):
        yield "transports: it is no object"
        return
    for transport, scopes in transports.items():
        where = f"transports.{shown(transport)}"
        yield from _white_space(transport, where)
        if not isinstance(scopes, dict):
            yield f"{where}: it is no object of scopes"
            continue
        for scope, requirements in scopes.items():
            at = f"{where}.{shown(scope)}"
            yield from _white_space(scope, at)
            if transport == "docker" and scope.endswith("/"):
                yield f"{at}: no image is in a scope that ends with '/'; take it away"
            yield from _requirements(requirements, at)


def _requirements(requirements: JsonValue, where: str) -> Problems:
    if not isinstance(requirements, list):
        yield f"{where}: it is no list of requirements"
        return
    if not requirements:
        yield f'{where}: the list is empty; write [{{"type": "reject"}}] to refuse'
    for index, requirement in enumerate(requirements):
        at = f"{where}[{index}]"
        if isinstance(requirement, dict):
            yield from _requirement(requirement, at)
        else:
            yield f"{at}: it is no object"


def _requirement(requirement: Mapping[str, JsonValue], where: str) -> Problems:
    kind = requirement.get("type")
    if kind in ("insecureAcceptAnything", "reject"):
        yield from _strange(requirement, _SIMPLE, where)
    elif kind == "signedBy":
        yield from _strange(requirement, _SIGNED_BY, where)
        if requirement.get("keyType") != "GPGKeys":
            yield f'{where}.keyType: it must be "GPGKeys"'
        yield from _one_key(requirement, where)
        yield from _identity(requirement, where)
    elif kind == "sigstoreSigned":
        yield from _strange(requirement, _SIGSTORE, where)
        yield from _one_key(requirement, where)
        yield from _identity(requirement, where)
    elif kind == "signedBaseLayer":
        yield f"{where}: guests do not know signedBaseLayer, and refuse every image"
    else:
        yield f"{where}.type: {_unknown(kind, _TYPES)}"


def _one_key(requirement: Mapping[str, JsonValue], where: str) -> Problems:
    for name in _NOT_IN_GUESTS:
        if name in requirement:
            yield f"{where}.{name}: guests do not know it; write keyPath or keyData"
    given = [name for name in ("keyPath", "keyData") if name in requirement]
    if len(given) != 1 and not any(name in requirement for name in _NOT_IN_GUESTS):
        yield f"{where}: exactly one of keyPath and keyData is needed, there are {len(given)}"
    for name in given:
        value = requirement[name]
        if not isinstance(value, str) or not value:
            yield f"{where}.{name}: it is no text"
        elif name == "keyPath":
            yield from _white_space(value, f"{where}.keyPath")
        elif not _is_base64(value):
            yield f"{where}.keyData: it is no base64"


def _identity(requirement: Mapping[str, JsonValue], where: str) -> Problems:
    at = f"{where}.signedIdentity"
    if "signedIdentity" not in requirement:
        return
    identity = requirement["signedIdentity"]
    if not isinstance(identity, dict):
        yield f"{at}: it is no object"
        return
    kind = identity.get("type")
    members = _IDENTITIES.get(kind) if isinstance(kind, str) else None
    if members is None:
        yield f"{at}.type: {_unknown(kind, tuple(_IDENTITIES))}"
        return
    yield from _strange(identity, frozenset({"type", *members}), at)
    for name in members:
        value = identity.get(name)
        if not isinstance(value, str) or not value:
            yield f"{at}.{name}: it is missing, or no text"
        else:
            yield from _white_space(value, f"{at}.{name}")


def _unknown(kind: JsonValue, known: tuple[str, ...]) -> str:
    """The guide's own policy has `" insecureAcceptAnything"`."""
    if isinstance(kind, str) and kind.strip() in known:
        return f'{shown(kind)} has white space around it; write "{kind.strip()}"'
    said = shown(kind) if isinstance(kind, str) else "it is missing, or no text"
    return f"{said}; the known ones are {', '.join(known)}"


def _strange(members: Mapping[str, JsonValue], known: frozenset[str], where: str) -> Problems:
    """containers/image refuses a whole policy for one member that it does not know."""
    for name in members:
        if name not in known:
            yield f"{where}: {shown(name)} is no member of it"


def _white_space(text: str, where: str) -> Problems:
    if text != text.strip():
        yield f"{where}: it has white space around it, and matches nothing; take that away"


def _is_base64(text: str) -> bool:
    try:
        decode_base64(text, "it")
    except RequestError:
        return False
    return True
