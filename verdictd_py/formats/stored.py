"""Rules that every store of keys and resources keeps, whatever it stores them in.

They are one text of each refusal, the canonical paths of the data directory (storage.md), and the
aliases of the image directory. `tests/conformance` runs the same suites against each store.
"""

from __future__ import annotations

from typing import Final

from verdictd_py.domain.names import LEGACY_RESOURCES, KeyId, ResourcePath
from verdictd_py.domain.secrets import KEY_BYTES, SecretBytes
from verdictd_py.errors import AlreadyExists, Conflict, RequestError, StorageError
from verdictd_py.formats.contents import withheld

KEYS: Final = "keys"
RESOURCES: Final = "resources"
COLLATERAL: Final = "collateral"

_FILES: Final = {
    "Policy": ("image", "policy.json"),
    "Sigstore Config": ("image", "sigstore.yaml"),
    "Cosign Key": ("image", "cosign.key"),
    "Credential": ("image", "auth.json"),
    "GPG Keyring": ("gpg", "keyring.gpg"),
}

ALIASES: Final = {LEGACY_RESOURCES[name].segments: file for name, file in _FILES.items()}
"""Files of the image and gpg directories, by the path of the resource that stands for each."""

IMAGE_POLICY: Final = frozenset(LEGACY_RESOURCES[name] for name in _FILES if name != "Credential")
"""Resources by which guests decide about images; their digests are not secrets."""

EMPTY: Final = "it is empty, so no guest can fetch it"
"""Problem of a resource without content, for lists."""


def target_of(path: ResourcePath) -> tuple[str, ...]:
    """Return the file to which a resource is written: the one behind its alias, if it has one."""
    return ALIASES.get(path.segments) or (RESOURCES, *path.segments)


def key_problem(size: int) -> str:
    """Return why a stored key of that many bytes cannot be used; empty if it can."""
    return "" if size == KEY_BYTES else f"a key has {KEY_BYTES} bytes"


def usable_key(key_id: KeyId, content: bytes) -> SecretBytes:
    """Return the content of a stored key.

    Raises:
        StorageError: it does not have the size of a key.
    """
    if problem := key_problem(len(content)):
        raise StorageError(
            f"the key {key_id} has {len(content)} bytes and cannot be used: {problem}"
        )
    return SecretBytes(content)


def require_key(key: SecretBytes) -> None:
    """Refuse to store a key of another size.

    Raises:
        StorageError: it does not have the size of a key.
    """
    if problem := key_problem(len(key)):
        raise StorageError(f"{problem}, this one has {len(key)}")


def adoptable(key_id: KeyId, content: bytes) -> bytes:
    """Return the content of a resource that can become a key.

    Raises:
        RequestError: it has another size than a key, or guests need it as a resource.
    """
    if key_id.segments in ALIASES:
        raise RequestError(f"{key_id} is read by guests as a resource and cannot become a key")
    if problem := key_problem(len(content)):
        raise RequestError(
            f"the resource {key_id} has {len(content)} bytes and cannot become a key: {problem}"
        )
    return content


def require_storable(path: ResourcePath, content: bytes) -> None:
    """Refuse a content that no guest could fetch, or that must not be given to guests.

    The check reads the whole content: call it with `offload`.

    Raises:
        RequestError: it is empty, or withheld.
    """
    if not content:
        raise RequestError("an empty resource cannot be fetched by any guest")
    if problem := withheld(path.segments, content):
        raise RequestError(f"the resource {path} is refused: {problem}")


def require_served(path: ResourcePath, content: bytes) -> None:
    """Refuse to serve a stored content that must not be given to guests.

    The check reads the whole content: call it with `offload`.

    Raises:
        StorageError: it is withheld.
    """
    if problem := withheld(path.segments, content):
        raise StorageError(f"the resource {path} is not served: {problem}")


def names_resource(key_id: KeyId) -> AlreadyExists:
    """Return the refusal of a key whose name a resource or an alias has."""
    return AlreadyExists(f"the key {key_id} names a resource, not a key")


def names_key(path: ResourcePath) -> AlreadyExists:
    """Return the refusal of a resource whose path a key has."""
    return AlreadyExists(f"the resource {path} names a key, not a resource")


def key_exists(key_id: KeyId) -> AlreadyExists:
    """Return the refusal to create a key twice."""
    return AlreadyExists(f"the key {key_id} exists already")


def resource_changed(path: ResourcePath) -> Conflict:
    """Return the refusal of a change whose expected revision is not the stored one."""
    return Conflict(f"the resource {path} has changed since it was read; read it again")
