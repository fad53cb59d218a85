"""Tests of policies before they are in force: what they would decide, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from verdictd_py.broker.changes import CheckedDocuments
from verdictd_py.broker.documents import deciding_data, decode_text, document_name
from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Verdict
from verdictd_py.documents import releasepolicies
from verdictd_py.documents.datanames import data_names
from verdictd_py.documents.recorded import RecordedClaims, fault_of, read_recorded
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.names import (
    LEGACY_RESOURCES,
    RELEASE_DATA,
    RELEASE_POLICIES,
    RELEASE_POLICY,
    KeyId,
    Name,
    ResourcePath,
)
from verdictd_py.domain.policyreport import PolicyOutline, PolicyReport
from verdictd_py.encoding import JsonValue, quoted
from verdictd_py.errors import NotFound, RequestError
from verdictd_py.offload import offload
from verdictd_py.ports import (
    NO_QUERY,
    DocumentStore,
    Kind,
    PolicyDocuments,
    PolicyReporter,
    PolicySource,
    Tee,
    Tees,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyTest:
    """Request for a test.

    Attributes:
        policy: name of the stored policy; empty for the policy of the claims' TEE.
        policy_text: text of the policy to test instead, None for the stored policy.
        reference: name of the stored data; empty for the data that belongs to the policy.
        reference_text: text of the data to use instead, None for the stored data.
        claims: file of recorded claims (`documents.recorded`); empty if `guest` is given.
        guest: id of an appraisal in the history; empty if `claims` are given.
        tee: TEE of the claims; empty if it can be derived from the claims.
    """

    policy: str = ""
    policy_text: bytes | None = field(default=None, repr=False)
    reference: str = ""
    reference_text: bytes | None = field(default=None, repr=False)
    claims: bytes = field(default=b"", repr=False)
    guest: str = ""
    tee: str = ""


@dataclass(frozen=True, slots=True)
class ReleaseTest:
    """Answer to the question whether a guest may have a secret.

    Attributes:
        policy: name of the release policy that decides about the path.
        prefix: prefix to which this policy is assigned; empty for the default policy.
    """

    policy: Name
    prefix: str
    report: PolicyReport


class PolicyTests:
    """Use cases for tests of policies; every method first checks the caller's right.

    Args:
        deciding: documents by which guests are appraised: stored data with the named sets in
            force.
    """

    def __init__(
        self,
        *,
        documents: DocumentStore,
        changes: CheckedDocuments,
        deciding: PolicySource,
        tees: Tees,
        reporter: PolicyReporter,
        history: History,
    ) -> None:
        self._documents = documents
        self._changes = changes
        self._deciding = deciding
        self._tees = tees
        self._reporter = reporter
        self._history = history

    async def check(self, caller: Caller, name: str, content: bytes) -> PolicyOutline:
        """Check a policy as `set_policy` does, with the data that it would use.

        Args:
            name: name under which the policy would be stored.

        Raises:
            NotAuthorized, RequestError, StorageError: the policy could not be checked.
            PolicyInvalid: the policy would refuse every guest.
        """
        caller.require(Right.MANAGE)
        text = decode_text(content, "the policy")
        await self._changes.check_policy(document_name(name), text)
        return await self._reporter.outline(text)

    async def report(self, caller: Caller, test: PolicyTest) -> PolicyReport:
        """Return what the broker would decide about some claims with a policy, and why.

        1. Read the claims. 2. Find their TEE. 3. Read policy and data. 4. Make the report.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: there is nothing to test.
            PolicyInvalid: the policy cannot be compiled, or the data cannot be used.
        """
        caller.require(Right.MANAGE)
        recorded = await self._claims(caller, test)  # 1
        tee = tee_of_claims(self._tees, recorded, test.tee, test.policy)  # 2
        documents = await self._documents_of(test, tee)  # 3
        name = None if tee is None else tee.name
        report = await self._reporter.report(documents, recorded.claims, name)  # 4
        stored = test.policy if test.policy_text is None else ""
        return replace(report, notes=(*notes(self._tees, recorded, stored), *report.notes))

    async def release(
        self, caller: Caller, guest: str, path: str, query: Mapping[str, str] = NO_QUERY
    ) -> ReleaseTest:
        """Return whether an accepted guest may have a secret, and why. Nothing is released.

        1. Find the guest. 2. Find the policy of the longest prefix. 3. Make the report.

        Args:
            guest: id of an appraisal in the history.
            path: `keys/<name>`, or the path of a resource.
            query: what a guest sends with its request over HTTP.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: there is nothing to test.
            PolicyInvalid: the policy cannot be compiled.
        """
        caller.require(Right.MANAGE)
        kind = _kind_of(path)
        judgement = self._history.find(caller, guest)  # 1
        if judgement.verdict is not Verdict.ACCEPTED or judgement.tee is None:
            raise RequestError(
                f"the guest {quoted(guest)} was not accepted, so that nothing is released to it"
            )
        prefix, name = await self._release_policy(path)  # 2
        policy = (await self._documents.get(name)).text
        documents = PolicyDocuments.combine(policy, await self._data(RELEASE_DATA))
        claims: dict[str, JsonValue] = {
            "claims": dict(judgement.claims),
            "appraisal": {"id": judgement.id, "tee": judgement.tee},
            "resource": {
                "kind": kind.value,
                "path": path,
                "labels": labels_of(path),
                "query": dict(query),
            },
            **self._reporter.token_members(judgement.tee, judgement.claims, judgement.trust),
        }
        report = await self._reporter.report(documents, claims, None)  # 3
        recorded = RecordedClaims(judgement.claims, judgement.tee, judgement.withheld)
        report = replace(report, notes=(*notes(self._tees, recorded, ""), *report.notes))
        return ReleaseTest(name, prefix, report)

    async def _release_policy(self, path: str) -> tuple[str, Name]:
        """Return the longest prefix of a path that has a policy, and the policy's name."""
        try:
            text = (await self._documents.get(RELEASE_POLICIES)).text
        except NotFound:
            return "", RELEASE_POLICY
        named = releasepolicies.parse(text)
        prefix = max((each for each in named if path.startswith(each)), key=len, default="")
        return prefix, named.get(prefix, RELEASE_POLICY)

    async def _claims(self, caller: Caller, test: PolicyTest) -> RecordedClaims:
        if bool(test.claims) == bool(test.guest):
            raise RequestError("give either claims or the id of an appraisal")
        if test.claims:
            what = "the claims file"
            read = partial(read_recorded, test.claims, what)
            return only_guest(await offload(len(test.claims), read), what)
        judgement = self._history.find_by_prefix(caller, test.guest)
        if not judgement.claims:
            raise RequestError(
                f"the guest {quoted(test.guest)} has no claims: its evidence did not verify "
                f"({judgement.code}); use a guest with genuine evidence (verdict-py guest list)"
            )
        return RecordedClaims(
            judgement.claims, judgement.tee, judgement.withheld, fault_of(judgement.code)
        )

    async def _documents_of(self, test: PolicyTest, tee: Tee | None) -> PolicyDocuments:
        policy_name = test.policy or (str(RELEASE_POLICY) if tee is None else tee.documents.policy)
        data_name = test.reference or (str(RELEASE_DATA) if tee is None else tee.documents.data)
        if test.policy_text is None:
            policy = (await self._documents.get(document_name(policy_name))).text
        else:
            policy = decode_text(test.policy_text, "the policy")
        if test.reference_text is not None:
            text = decode_text(test.reference_text, "the reference data")
            data = await offload(len(text), partial(ReferenceData.parse, text))
            if tee is not None:
                schema = self._tees.schema(tee.name)
                require = partial(schema.require, data_name, data.values, data_names(policy))
                await offload(len(text), require)
            return PolicyDocuments.combine(policy, data)
        return PolicyDocuments.combine(policy, await self._data(document_name(data_name)))

    async def _data(self, name: Name) -> ReferenceData:
        try:
            return await deciding_data(self._documents, self._deciding, name)
        except NotFound:
            if name != RELEASE_DATA:
                raise
            return ReferenceData.of({})  # a release policy may have no data


_KEYS: Final = "keys/"
_IMAGE_RESOURCES: Final = frozenset(LEGACY_RESOURCES.values())


def _kind_of(path: str) -> Kind:
    """Return the kind of the secret with this path.

    Raises:
        RequestError: no secret can have this path.
    """
    if path.startswith(_KEYS):
        KeyId.parse(path.removeprefix(_KEYS))
        return Kind.KEY
    return Kind.IMAGE if ResourcePath.parse(path) in _IMAGE_RESOURCES else Kind.RESOURCE


def labels_of(path: str) -> JsonValue:
    """Return the parts of a name of three segments, as release policies read them."""
    match path.removeprefix(_KEYS).split("/"):
        case repository, kind, tag:
            return {"repository": repository, "type": kind, "tag": tag}
    return {}


def only_guest(recorded: tuple[RecordedClaims, ...], what: str) -> RecordedClaims:
    """Return the only guest of a file.

    Raises:
        RequestError: there are several guests.
    """
    if len(recorded) > 1:
        raise RequestError(
            f"{what} has {len(recorded)} guests; give the claims of one, or use "
            "verdictd-py policy test --coverage"
        )
    return recorded[0]


def tee_of_claims(tees: Tees, recorded: RecordedClaims, named: str, policy: str) -> Tee | None:
    """Return the TEE of recorded claims; None for the input of a release policy.

    Args:
        named: TEE that the operator named, empty if there is none.
        policy: name of the tested policy; the last source for the TEE.

    Raises:
        RequestError: the TEE is not known, or cannot be derived.
    """
    if named:
        tee, measured = tees.named(named), tees.of_claims(recorded.claims)
        of = recorded.tee or (tee.name if measured is None else measured.name)
        if of != tee.name:
            raise RequestError(f"the claims are of the TEE {of}, not of {tee.name}; correct --tee")
        return tee
    if recorded.tee is not None:
        return tees.named(recorded.tee)
    if recorded.for_release:
        return None
    derived = tees.of_claims(recorded.claims) or tees.of_document(policy)
    if derived is None:
        raise RequestError(
            f"the TEE of the claims is not known; name it: --tee {' or '.join(tees.names)}"
        )
    return derived


def notes(tees: Tees, recorded: RecordedClaims, policy: str) -> tuple[str, ...]:
    """Return what an operator has to know about a test with these claims.

    Args:
        policy: name of the tested policy if it is stored, otherwise empty.
    """
    texts = []
    if recorded.fault:
        texts.append(
            f"the guest was refused for {recorded.fault}, whatever the policy says; this report "
            "is about the policy alone"
        )
    if recorded.withheld:
        names = " and ".join(recorded.withheld)
        texts.append(
            f"the guest had {names}, which the broker does not store: the policy was tested "
            "without it; record all claims with verdictd-py appraise --json"
        )
    if policy and not recorded.for_release and tees.of_document(policy) is None:
        texts.append(
            f"{policy} is not the policy of a TEE; if it is a release policy, its input is an "
            "object with claims, appraisal and resource"
        )
    return tuple(texts)
