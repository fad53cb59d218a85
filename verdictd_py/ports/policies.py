"""Where policies are kept, how they are tried, and what they decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.names import Name
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason
from verdictd_py.ports.stores import Kind


@dataclass(frozen=True, slots=True)
class PolicyDocuments:
    """One policy with its reference data, as text."""

    policy: str
    data: str


class PolicySource(Protocol):
    """Where appraisal policies are kept."""

    async def documents(self, tee: str) -> PolicyDocuments:
        """Policy and reference data for one kind of TEE.

        Raises:
            NotFound: none is kept for it.
            StorageError: one of them cannot be read.
        """
        ...


class DocumentStore(PolicySource, Protocol):
    """The same, one document at a time and by name."""

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

    def policy_name(self, tee: str) -> Name:
        """Name of a TEE's policy.

        Raises:
            NotFound: none is kept for it.
        """
        ...

    def reference_name(self, tee: str) -> Name:
        """Name of a TEE's reference data.

        Raises:
            NotFound: none is kept for it.
        """
        ...

    def tee_of(self, name: Name) -> str | None:
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

    async def check(self, documents: PolicyDocuments, tee: str | None) -> None:
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


class AppraisalPolicy(Protocol):
    """Decides about verified claims."""

    async def failures(self, tee: str, claims: Mapping[str, JsonValue]) -> tuple[Reason, ...]:
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
