"""What the broker needs from outside, as interfaces.

Stores are asynchronous: directories are the embedded default, but no caller may assume
a file, a single process or a cheap listing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Protocol

from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.evidence import Collateral, Evidence, JsonValue, Tee, VerifiedEvidence
from verdictd_py.domain.names import KeyId, Name, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import Reason

EventValue = str | int | float | bool | None | SecretBytes | tuple[str, ...]


class Events(Protocol):
    """Where the lower rooms say what happened; the logger is behind it, not in them."""

    def record(self, event: str, /, **fields: EventValue) -> None:
        """Records one event. `SecretBytes` among the fields are shown as their size."""
        ...


class Kind(StrEnum):
    """Kind of a stored object, as the release policy and the audit trail see it."""

    KEY = "key"
    RESOURCE = "resource"
    IMAGE = "image"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What was found: canonical path (`keys/default/key/1`, `image/policy.json`)."""

    kind: Kind
    path: str
    content: SecretBytes


@dataclass(frozen=True, slots=True)
class StoredName:
    """What can be said of a stored object without its content.

    Attributes:
        name: of the key, or path of the resource.
        file: canonical path, as in `StoredObject`.
        size: bytes.
        changed: when it was written last, with a time zone.
        problem: why it cannot be used; empty where it can.
    """

    name: str
    file: str
    size: int
    changed: datetime
    problem: str = ""


class KeyStore(Protocol):
    """Keys of exactly 32 bytes."""

    async def page(self, after: str, limit: int) -> tuple[StoredName, ...]:
        """The first `limit` keys by name behind the name `after`.

        Raises:
            StorageError: they cannot be listed.
        """
        ...

    async def describe(self, key_id: KeyId) -> StoredName:
        """A key without its bytes.

        Raises:
            NotFound, StorageError: as `get`; a wrong size is no error here.
        """
        ...

    async def get(self, key_id: KeyId) -> SecretBytes:
        """The key's bytes.

        Raises:
            NotFound: no such key.
            StorageError: stored with a wrong size, or unreadable.
        """
        ...

    async def create(self, key_id: KeyId, key: SecretBytes) -> None:
        """Stores a new key.

        Raises:
            AlreadyExists: a key, a resource or an alias has that name.
            StorageError: not 32 bytes, or it could not be written.
        """
        ...

    async def delete(self, key_id: KeyId) -> None:
        """Deletes a key.

        Raises:
            NotFound: no such key.
            StorageError: it could not be deleted.
        """
        ...


class ResourceStore(Protocol):
    """Resources, the aliases of the image directory among them (storage.md)."""

    async def page(self, after: str, limit: int) -> tuple[StoredName, ...]:
        """The first `limit` resources by path behind the path `after`.

        Raises:
            StorageError: they cannot be listed.
        """
        ...

    async def get(self, path: ResourcePath) -> StoredObject:
        """The resource, or the file behind the alias; never a key.

        Raises:
            NotFound: neither.
            StorageError: it cannot be served; the message says why, without a path.
        """
        ...

    async def put(self, path: ResourcePath, content: SecretBytes) -> StoredObject:
        """Creates or replaces a resource or the file behind an alias, atomically.

        Raises:
            RequestError: empty content (no guest could fetch it).
            AlreadyExists: a key has that name.
            StorageError: it could not be written.
        """
        ...

    async def delete(self, path: ResourcePath) -> None:
        """Deletes a resource or the file behind an alias.

        Raises:
            NotFound: neither.
            StorageError: it could not be deleted.
        """
        ...


@dataclass(frozen=True, slots=True)
class PolicyDocuments:
    """One policy with its reference data, as text: `opa/tdxPolicy.rego`, `opa/tdxData`."""

    policy: str
    data: str


class PolicySource(Protocol):
    """Where appraisal policies are kept."""

    async def documents(self, tee: Tee) -> PolicyDocuments:
        """Policy and reference data for one kind of TEE.

        Raises:
            NotFound: none is kept for it.
            StorageError: one of them cannot be read.
        """
        ...


class DocumentStore(PolicySource, Protocol):
    """The same, one document at a time and by name (`tdxPolicy.rego`, `tdxData`)."""

    async def get(self, name: Name) -> str:
        """Text of a document.

        Raises:
            NotFound, StorageError: as `documents`.
        """
        ...

    async def put(self, name: Name, text: str) -> None:
        """Creates or replaces a document, atomically.

        Raises:
            StorageError: it could not be written.
        """
        ...

    def policy_name(self, tee: Tee) -> Name:
        """Name of a TEE's policy.

        Raises:
            NotFound: none is kept for it.
        """
        ...

    def reference_name(self, tee: Tee) -> Name:
        """Name of a TEE's reference data.

        Raises:
            NotFound: none is kept for it.
        """
        ...

    def tee_of(self, name: Name) -> Tee | None:
        """The TEE whose policy or reference data has that name, None for any other."""
        ...


@dataclass(frozen=True, slots=True)
class TestedPolicy:
    """What a policy says about an input, and each input beside its reference value."""

    __test__ = False  # pytest takes the name for a class of tests

    allow: bool
    parse_info: Mapping[str, JsonValue]


class PolicyTester(Protocol):
    """Runs policies that nobody has checked yet, where they can do no harm."""

    async def check(self, documents: PolicyDocuments, tee: Tee | None) -> None:
        """Returns if these documents may be stored: they compile and judge a sample in time.

        Args:
            tee: whose guests they will judge, where that is known.

        Raises:
            PolicyInvalid: one line that says why not.
        """
        ...

    async def test(self, documents: PolicyDocuments, claims: JsonValue) -> TestedPolicy:
        """What the policy decides about `claims`, an object.

        Raises:
            PolicyInvalid: it decides nothing.
        """
        ...


class KeyringEditor(Protocol):
    """OpenPGP keyrings as bytes: public certificates, binary, one after the other."""

    def added(self, keyring: bytes, certificates: bytes) -> bytes:
        """The keyring with more certificates, armoured or binary.

        Raises:
            RequestError: they are broken, or hold secrets.
            StorageError: the keyring cannot be read.
        """
        ...

    def without(self, keyring: bytes, which: str) -> bytes:
        """The keyring without one certificate, named by fingerprint, key id or e-mail.

        Raises:
            NotFound, RequestError: none, or several, are meant.
            StorageError: the keyring cannot be read.
        """
        ...

    def listed(self, keyring: bytes) -> str:
        """Text for people: fingerprint, user ids, created, expires.

        Raises:
            StorageError: the keyring cannot be read.
        """
        ...


class AppraisalPolicy(Protocol):
    """Decides about verified claims."""

    async def failures(self, tee: Tee, claims: Mapping[str, JsonValue]) -> tuple[Reason, ...]:
        """Every failed rule; empty means allowed, and only an explicit yes is empty.

        An undefined result, a type error, an unreadable policy: a reason each.
        """
        ...


class ReleasePolicy(Protocol):
    """Decides which accepted guest gets what."""

    async def failures(self, peer: AppraisedPeer, kind: Kind, path: str) -> tuple[Reason, ...]:
        """Why not; empty means allowed, and only an explicit yes is empty.

        Args:
            path: of what was found, not of what was asked for: `keys/<kid>`, or the path of
                a resource.
        """
        ...


@dataclass(frozen=True, slots=True)
class CollateralRequest:
    """Which collateral: `fmspc` 12 lower-case hex digits, `ca` processor or platform."""

    tee: Tee
    fmspc: str
    ca: str


class CollateralSource(Protocol):
    """Where collateral comes from; the verifier checks what it gets."""

    async def candidates(
        self, request: CollateralRequest, endorsements: Collateral | None
    ) -> tuple[Collateral, ...]:
        """Collateral to try, best first, never empty.

        Raises:
            CollateralUnavailable: there is none for this platform now.
        """
        ...


class CollateralStore(Protocol):
    """Where fetched collateral survives a restart, by file name."""

    async def names(self) -> tuple[str, ...]:
        """Everything that was saved; asked once, at start."""
        ...

    async def load(self, name: str) -> bytes | None:
        """What was saved under that name, None where nothing was.

        Raises:
            StorageError: it cannot be read.
        """
        ...

    async def save(self, name: str, content: bytes) -> None:
        """Creates or replaces, atomically.

        Raises:
            StorageError: it cannot be written.
        """
        ...


class SessionStore(Protocol):
    """What is kept of HTTP guests between their requests, perhaps for several brokers.

    A session is named by a digest of its id, which the guest alone has. It begins with a
    challenge, which is answered once, and may then hold an attestation token. Claims that are
    too long for a token are kept under their digest, once for all guests that share them.
    Nothing of it is secret, and whoever can write it makes no peer: challenges and tokens
    bear the broker's seal, and tokens the digest of claims.

    Everything is bounded in number and size: an unanswered challenge, which any stranger can
    ask for, never displaces a token. What has ended is forgotten.
    """

    async def begin(self, name: str, challenge: str, *, now: datetime, expires: datetime) -> None:
        """A new session with a challenge.

        Where there are too many, the oldest unanswered challenge is forgotten.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def take_challenge(self, name: str, *, now: datetime) -> str | None:
        """The challenge, to the first who asks; None for everybody else, and when it is over.

        Raises:
            StorageError: the store fails. The challenge may be spent.
        """
        ...

    async def attested(self, name: str, token: str, *, now: datetime, expires: datetime) -> None:
        """The session whose challenge was taken now holds a token.

        Where there are too many, unanswered challenges go first, then the oldest token.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def token(self, name: str, *, now: datetime) -> str | None:
        """The token, None where there is none, or when it is over.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def keep(self, digest: str, claims: str, *, now: datetime, expires: datetime) -> None:
        """Keeps claims until `expires`, or longer where they are kept already.

        Where there are too many, the oldest are forgotten.

        Raises:
            StorageError: the store fails.
        """
        ...

    async def kept(self, digest: str, *, now: datetime) -> str | None:
        """The claims, None where there are none, or no longer; not compared with the digest.

        Raises:
            StorageError: the store fails.
        """
        ...


class Verifier(Protocol):
    """Verifies evidence of one kind up to a trusted root."""

    @property
    def name(self) -> str:
        """As on the command line: `tdx`."""
        ...

    @property
    def tee(self) -> Tee:
        """Kind of TEE whose evidence this verifies."""
        ...

    async def verify(self, evidence: Evidence, *, now: datetime) -> VerifiedEvidence:
        """Verifies signature, chain, revocation and TCB of `evidence` at `now`.

        Raises:
            AttestationError: refused before its claims could be believed.
            CollateralUnavailable: it cannot be judged now.
        """
        ...
