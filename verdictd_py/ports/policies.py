"""Ports of policies: their source, their checks and tests, and their decisions."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Final, Protocol, Self

from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.appraisal import AppraisedPeer, DecidedBy
from verdictd_py.domain.policyreport import PolicyOutline, PolicyReport
from verdictd_py.domain.trust import TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason
from verdictd_py.ports.stores import Kind


@dataclass(frozen=True)
class PolicyDocuments:
    """The texts of a policy and of its reference data.

    Attributes:
        name: name of the policy's document, for messages; empty if it is not stored.
    """

    policy: str
    data: str
    name: str = field(default="", compare=False)

    @classmethod
    def combine(cls, policy: str, reference: ReferenceData, name: str = "") -> Self:
        """Combine a policy with reference data that is parsed already."""
        documents = cls(policy, reference.text, name)
        documents.__dict__["reference"] = reference
        return documents

    @cached_property
    def reference(self) -> ReferenceData:
        """The parsed reference data; it is parsed at most once.

        Raises:
            PolicyInvalid: the reference data cannot be parsed.
        """
        return ReferenceData.parse(self.data)

    @cached_property
    def decided_by(self) -> DecidedBy:
        """The digests of both texts, for records of decisions."""
        texts = (self.policy, self.data)
        return DecidedBy(
            *(hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest() for text in texts)
        )

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 over both texts, each hashed first so that neither runs into the other."""
        parts = (self.decided_by.policy, self.decided_by.data)
        return hashlib.sha256(b"".join(map(bytes.fromhex, parts))).digest()

    def digested(self) -> Self:
        """Compute the digest now, in a thread if the texts are large, and return this object."""
        self.__dict__.setdefault("digest", self.digest)
        return self


class Failures(tuple[Reason, ...]):
    """Failed rules of a decision; empty if the policy allows.

    Attributes:
        decided_by: the documents by which the policy decided; None if no policy was evaluated.
    """

    decided_by: DecidedBy | None = None

    @classmethod
    def of(cls, reasons: Iterable[Reason], documents: PolicyDocuments | None = None) -> Self:
        failures = cls(reasons)
        failures.decided_by = None if documents is None else documents.decided_by
        return failures


class PolicySource(Protocol):
    """Source of the documents by which guests are appraised."""

    async def documents(self, tee: str) -> PolicyDocuments:
        """Return policy and reference data for one TEE, both as they were at one moment.

        Raises:
            NotFound: policy or reference data is not stored.
            PolicyInvalid: the reference data cannot be parsed.
            StorageError: policy or reference data cannot be read.
        """
        ...


class PolicyRevisions(Protocol):
    """Revisions of the documents by which guests are appraised, counted in this process."""

    def last_revision(self, tee: str) -> int:
        """Return the revision that was read last; 0 if none was. Nothing is read."""
        ...

    async def revision(self, tee: str) -> int:
        """Read the documents, and return their revision.

        It is another one after each change that a decision depends on, also of a file that was
        edited by hand or by another process, and when a named set expires.

        Raises:
            NotFound, PolicyInvalid, StorageError: see `PolicySource.documents`.
        """
        ...


@dataclass(frozen=True, slots=True)
class PolicyDecision:
    """Decision of a policy about an input, and each claim next to its reference value."""

    __test__ = False  # otherwise pytest collects it as a class of tests

    allow: bool
    parse_info: Mapping[str, JsonValue]


class PolicyTester(Protocol):
    """Checks and tests policies that are not trusted yet, isolated from the broker."""

    async def check(self, documents: PolicyDocuments, tee: str | None) -> None:
        """Check that these documents may be stored: they compile, and decide a sample in time.

        Args:
            tee: TEE whose guests they will appraise, None if it is not known.

        Raises:
            PolicyInvalid: the documents must not be stored.
        """
        ...

    async def test(self, documents: PolicyDocuments, claims: JsonValue) -> PolicyDecision:
        """Return the policy's decision about `claims`, an object.

        Raises:
            PolicyInvalid: the policy makes no decision.
        """
        ...


class PolicyReporter(Protocol):
    """Reports what the broker would decide about some claims with a policy, and why."""

    async def outline(self, policy: str) -> PolicyOutline:
        """Return the rules of a policy.

        Raises:
            PolicyInvalid: the policy cannot be compiled.
        """
        ...

    async def report(
        self, documents: PolicyDocuments, claims: Mapping[str, JsonValue], tee: str | None
    ) -> PolicyReport:
        """Return the report; an evaluation that fails is a refusal in it.

        Args:
            tee: TEE of the claims; None for the input of a release policy.

        Raises:
            PolicyInvalid: the policy cannot be compiled.
        """
        ...

    def token_members(
        self, tee: str, claims: Mapping[str, JsonValue], trust: TrustVector
    ) -> Mapping[str, JsonValue]:
        """Return the members of a release policy's input that are those of an attestation token.

        Args:
            trust: trust vector of the guest when it was accepted.
        """
        ...


class AppraisalPolicy(Protocol):
    """Appraisal policy of every TEE: decides about verified claims."""

    async def failures(self, tee: str, claims: Mapping[str, JsonValue]) -> Failures:
        """Return every failed rule; empty only if the policy explicitly allows the guest.

        An undefined result, and an evaluation that fails for these claims, are reasons too.

        Raises:
            PolicyUnavailable: the policy is missing, unreadable, or fails whatever the claims.
        """
        ...


NO_QUERY: Final[Mapping[str, str]] = MappingProxyType({})
"""Query of a request without a query."""


class ReleasePolicy(Protocol):
    """Release policy: decides which accepted guest may have which secret."""

    async def failures(
        self, peer: AppraisedPeer, kind: Kind, path: str, query: Mapping[str, str] = NO_QUERY
    ) -> Failures:
        """Return why the release is denied; empty only if the policy explicitly allows it.

        Args:
            path: path of the stored object, which may differ from the requested one:
                `keys/<kid>`, or the path of a resource.
            query: query of the request's URL; the guest chose it.

        Raises:
            PolicyUnavailable: the policy is missing, unreadable, or cannot be compiled.
        """
        ...
