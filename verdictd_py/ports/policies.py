"""Policies: where they come from, how they are checked, and what they decide."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Final, Protocol, Self

from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.policyreport import PolicyOutline, PolicyReport
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import Reason
from verdictd_py.ports.stores import Kind


@dataclass(frozen=True)
class PolicyDocuments:
    """One policy with its reference data, as text.

    Attributes:
        name: name of the policy's document, for messages; empty if it is not stored.
    """

    policy: str
    data: str
    name: str = field(default="", compare=False)

    @classmethod
    def over(cls, policy: str, reference: ReferenceData, name: str = "") -> Self:
        """Combine a policy with reference data that is parsed already."""
        made = cls(policy, reference.text, name)
        made.__dict__["reference"] = reference
        return made

    @cached_property
    def reference(self) -> ReferenceData:
        """The reference data as one value, parsed at most once.

        Raises:
            PolicyInvalid: it cannot be parsed.
        """
        return ReferenceData.parse(self.data)


class PolicySource(Protocol):
    """Source of the documents by which guests are appraised."""

    async def documents(self, tee: str) -> PolicyDocuments:
        """Return policy and reference data for one TEE, both as they were at one moment.

        Raises:
            NotFound: one of them is not stored.
            PolicyInvalid: the reference data cannot be parsed.
            StorageError: one of them cannot be read.
        """
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


class PolicyReporter(Protocol):
    """Reports what a policy decides about some claims, and why. It decides as the broker does."""

    async def outline(self, policy: str) -> PolicyOutline:
        """Return which rules a policy has.

        Raises:
            PolicyInvalid: the policy cannot be compiled.
        """
        ...

    async def report(
        self, documents: PolicyDocuments, claims: Mapping[str, JsonValue], tee: str | None
    ) -> PolicyReport:
        """Return the report; an evaluation that fails is a refusal in it.

        Args:
            tee: of the claims; None for the input of a release policy.

        Raises:
            PolicyInvalid: the policy cannot be compiled.
        """
        ...


class AppraisalPolicy(Protocol):
    """Decides about verified claims."""

    async def failures(self, tee: str, claims: Mapping[str, JsonValue]) -> tuple[Reason, ...]:
        """Every failed rule; empty means allowed, and only an explicit yes is empty.

        An undefined result, a type error, an unreadable policy: a reason each.
        """
        ...


NO_QUERY: Final[Mapping[str, str]] = MappingProxyType({})
"""Query of a request that has none."""


class ReleasePolicy(Protocol):
    """Decides which accepted guest gets what."""

    async def failures(
        self, peer: AppraisedPeer, kind: Kind, path: str, query: Mapping[str, str] = NO_QUERY
    ) -> tuple[Reason, ...]:
        """Why not; empty means allowed, and only an explicit yes is empty.

        Args:
            path: of what was found, not of what was asked for: `keys/<kid>`, or the path of
                a resource.
            query: of the request's URL; the guest chose it.
        """
        ...
