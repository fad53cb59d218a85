"""The release policy: which accepted guest gets which secret. Only an explicit `true` allows."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from typing import Final, Self

from verdictd_py.documents import releasepolicies
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.appraisal import AppraisedPeer
from verdictd_py.domain.names import RELEASE_DATA, RELEASE_POLICIES, RELEASE_POLICY, Name
from verdictd_py.domain.trust import TrustVector
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import (
    EvaluationFailed,
    NotFound,
    PolicyInvalid,
    PolicyUnavailable,
    Reason,
    ReasonKind,
    RequestError,
    StorageError,
)
from verdictd_py.offload import offload
from verdictd_py.packaged import policy_text
from verdictd_py.policy import explain, trustee
from verdictd_py.policy.compiled import CompiledPolicies
from verdictd_py.policy.decisions import Decisions
from verdictd_py.policy.engine import PreparedInput, in_thread
from verdictd_py.policy.trial import SampleDecisions
from verdictd_py.ports import (
    NO_QUERY,
    Document,
    DocumentStore,
    Failures,
    Kind,
    PolicyDocuments,
    Tees,
)

_UNREADABLE: Final = (NotFound, StorageError, PolicyInvalid, RequestError)

_NO_DATA: Final = ReferenceData.of({})

MAX_VIEWS: Final = 64
"""Limit of cached guests; one with a long event log takes some 300 KiB."""

MAX_COMBINED: Final = 128
"""Limit of cached policies with their data. A policy that compiles has at most 256 KiB, and all
have the same data."""

MAX_RESOURCES: Final = 128
"""Limit of cached inputs about a resource; the query of a request has at most some KiB."""

_Revisions = tuple[str, str | None]

_Subject = tuple[str, Mapping[str, JsonValue], TrustVector]


@dataclass(frozen=True, slots=True)
class _Combined:
    """A release policy with its data.

    Attributes:
        reads_data: whether the policy may read data. The default does not, so that the data that
            describes a request need not be passed to the engine.
        is_packaged: whether it is the default, which reads the resource only. It does not get the
            guest, so that it decides once about each resource.
    """

    documents: PolicyDocuments
    reads_data: bool
    is_packaged: bool

    @classmethod
    def of(cls, policy: str, data: ReferenceData, name: str) -> Self:
        """Combine both, and compute what depends on the texts only."""
        documents = PolicyDocuments.combine(policy, data, name).digested()
        is_packaged = policy.strip() == _packaged_policy()
        return cls(documents, _reads_data(policy), is_packaged)


@cache
def _packaged_policy() -> str:
    return policy_text(str(RELEASE_POLICY)).strip()


def _reads_data(policy: str) -> bool:
    """Return whether `data` is anywhere but in lines that are comments.

    A raw string (between backticks) can have lines that look like comments, and a carriage return
    may end a comment; a text with one of them outside comments counts as reading data.
    """
    text = policy.replace("\r\n", "\n")
    code = [line for line in text.split("\n") if not line.lstrip(" \t").startswith("#")]
    return "\r" in text or any("data" in line or "`" in line for line in code)


class RegoReleasePolicy:
    """Decides with `releasePolicy.rego`, or the policy of the longest prefix of the path.

    As with appraisal, the documents are read for every decision, so that a file changed by hand
    takes effect at once. What was parsed and combined is cached until one of them has another
    revision.

    Args:
        documents: store of the policies.
        tees: the known TEEs.
        compiled: cache of compiled policies, shared with `PolicyTrial`.
    """

    def __init__(
        self, documents: DocumentStore, tees: Tees, compiled: CompiledPolicies | None = None
    ) -> None:
        self._documents = documents
        self._tees = tees
        self._data: tuple[str, ReferenceData] | None = None
        self._prefixes: tuple[str, dict[str, Name]] = ("", {})
        self._combined: OrderedDict[Name, tuple[_Revisions, _Combined]] = OrderedDict()
        self._combining = asyncio.Lock()
        self._views: OrderedDict[str, tuple[_Subject, PreparedInput]] = OrderedDict()
        self._compiled = CompiledPolicies() if compiled is None else compiled
        self._decisions = Decisions(self._compiled)
        self._samples = SampleDecisions(tees, self._compiled)

    async def failures(
        self, peer: AppraisedPeer, kind: Kind, path: str, query: Mapping[str, str] = NO_QUERY
    ) -> Failures:
        """Return the reasons to deny a secret; empty only if the policy's `allow` is `true`.

        1. Choose the policy. 2. Compile it, or take the cached policy. 3. Evaluate it. If 3 fails
        for this input, which the guest chose in part, the secret is denied.

        Args:
            path: `keys/<kid>`, or `<repository>/<type>/<tag>` of a resource.
            query: names and values in the query of the request's URL.

        Raises:
            PolicyUnavailable: the policy is at fault, whatever the input: 1 or 2 failed, or 3
                fails for sample input as well.
        """
        try:
            combined = await self._documents_for(path)  # 1
            data: Mapping[str, JsonValue] = {}
            if combined.reads_data:
                data = trustee.request({"resource": _resource(kind, path, query)})
            try:
                if combined.is_packaged:
                    release_input = _resource_input(kind, path, tuple(query.items()))
                else:
                    resource = _resource(kind, path, query)
                    release_input = self._view(peer).with_member("resource", resource)
                documents = combined.documents
                result = await self._decisions.evaluate(documents, release_input, data)  # 2, 3
            except EvaluationFailed as error:
                await self._samples.require(combined.documents, None)
                reason = _reason(f"the release policy for {path} makes no decision: {error}")
                return Failures.of([reason], combined.documents)
        except _UNREADABLE as error:
            raise PolicyUnavailable(
                f"the release policy for {path} cannot be used: {error}"
            ) from error
        if result.allow:
            return Failures.of((), documents)
        reasons = explain.own_reasons(result.document) or (
            _reason(f"the release policy does not allow {path} to this guest"),
        )
        return Failures.of(reasons, documents)

    def _view(self, peer: AppraisedPeer) -> PreparedInput:
        """Return the input about the guest, built once for each appraisal: connection or token.

        Raises:
            EvaluationFailed: the claims cannot be written as JSON.
        """
        subject = (peer.tee, peer.claims, peer.trust)
        known = self._views.get(peer.appraisal_id)
        if known is None or known[0] != subject:
            view = PreparedInput.of(
                {
                    "claims": dict(peer.claims),
                    "appraisal": {"id": peer.appraisal_id, "tee": peer.tee},
                    trustee.SUBMODS: trustee.submods(self._tees, *subject),
                }
            )
            known = self._views[peer.appraisal_id] = subject, view
        self._views.move_to_end(peer.appraisal_id)
        while len(self._views) > MAX_VIEWS:
            self._views.popitem(last=False)
        return known[1]

    async def prepare(self) -> tuple[str, ...]:
        """Compile every release policy, so that the next guest need not wait for that.

        Returns:
            A line for each policy that cannot be used, for a warning.
        """
        problems = []
        try:
            named = await self._named()
        except _UNREADABLE as error:
            return (str(error),)
        for name in {RELEASE_POLICY, *named.values()}:
            try:
                documents = (await self._documents_of(name)).documents
                await in_thread(self._compiled.of, documents)
                await self._samples.require(documents, None)
            except PolicyInvalid as error:
                problems.append(str(error))
            except _UNREADABLE as error:
                problems.append(f"{name}: {error}")
        return tuple(sorted(problems))

    async def _documents_for(self, path: str) -> _Combined:
        named = await self._named()
        prefixes = [prefix for prefix in named if path.startswith(prefix)]
        name = named[max(prefixes, key=len)] if prefixes else RELEASE_POLICY
        return await self._documents_of(name)

    async def _documents_of(self, name: Name) -> _Combined:
        snapshot = await self._documents.snapshot((name, RELEASE_DATA))
        policy = snapshot.get(name) or await self._documents.get(name)
        data = snapshot.get(RELEASE_DATA)
        revisions = policy.revision, None if data is None else data.revision
        known = self._combined.get(name)
        if known is None or known[0] != revisions:
            async with self._combining:  # guests that come at once wait for one combination
                return await self._combine(name, policy, data, revisions)
        self._combined.move_to_end(name)
        return known[1]

    async def _combine(
        self, name: Name, policy: Document, data: Document | None, revisions: _Revisions
    ) -> _Combined:
        known = self._combined.get(name)
        if known is not None and known[0] == revisions:
            return known[1]
        reference = await self._parsed(data)
        size = len(policy.text) + len(reference.text)
        combined = await offload(size, partial(_Combined.of, policy.text, reference, str(name)))
        self._combined[name] = revisions, combined
        while len(self._combined) > MAX_COMBINED:
            self._combined.popitem(last=False)
        return combined

    async def _parsed(self, document: Document | None) -> ReferenceData:
        """Return the data as one value, parsed once for each revision."""
        if document is None:
            return _NO_DATA
        if self._data is None or self._data[0] != document.revision:
            parse = partial(ReferenceData.parse, document.text)
            self._data = document.revision, await offload(len(document.text), parse)
        return self._data[1]

    async def _named(self) -> dict[str, Name]:
        """Return the names of policies by prefix of the path."""
        document = (await self._documents.snapshot((RELEASE_POLICIES,))).get(RELEASE_POLICIES)
        if document is None:
            return {}
        if self._prefixes[0] != document.revision:
            self._prefixes = document.revision, releasepolicies.parse(document.text)
        return self._prefixes[1]


def _resource(kind: Kind, path: str, query: Mapping[str, str]) -> dict[str, JsonValue]:
    """Return what a policy reads about the secret."""
    return {"kind": kind.value, "path": path, "labels": _labels(path), "query": dict(query)}


@lru_cache(maxsize=MAX_RESOURCES)
def _resource_input(kind: Kind, path: str, query: tuple[tuple[str, str], ...]) -> PreparedInput:
    """Return the input of the default policy, which depends on nothing else."""
    return PreparedInput.of({"resource": _resource(kind, path, dict(query))})


def _labels(path: str) -> JsonValue:
    """Return the parts of a name of three segments, without the prefix of a key's path."""
    match path.removeprefix("keys/").split("/"):
        case repository, kind, tag:
            return {"repository": repository, "type": kind, "tag": tag}
    return {}


def _reason(text: str) -> Reason:
    return Reason("release", "", "", text, kind=ReasonKind.POLICY)
