"""Administration of documents: policies, reference data, release policies.

Every change goes through `CheckedDocuments`. A caller who can set policies can release every key:
give `Right.MANAGE` only to callers that may have every secret.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from typing import Final

from verdictd_py.broker.catalogue import DATA, POLICY, Catalogue, DocumentUse
from verdictd_py.broker.changes import CheckedDocuments, ReadRevisions, policy_set_event
from verdictd_py.documents import referencesets, releasepolicies
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.callers import Caller, Right
from verdictd_py.domain.events import PolicyDeleted
from verdictd_py.domain.names import REFERENCE_SETS, RELEASE_DATA, RELEASE_POLICIES, Name
from verdictd_py.encoding import decode_object, quoted
from verdictd_py.errors import NotFound, RequestError
from verdictd_py.offload import offload
from verdictd_py.ports import (
    ANY,
    Document,
    DocumentStore,
    Expected,
    PolicyDecision,
    PolicyDocuments,
    PolicySource,
    PolicyTester,
    Tees,
)

MAX_CLAIMS_BYTES: Final = 1024 * 1024
"""Maximum size of the input of a test, in bytes; it is the engine's limit."""

_DATA: Final = frozenset({REFERENCE_SETS, RELEASE_DATA, RELEASE_POLICIES})
"""Names that no policy may have: the broker reads JSON from these documents."""


class DocumentAdministrator:
    """Use cases for documents by name; every method first checks the caller's right.

    Args:
        documents: the stored documents; only read here.
        changes: checks and stores documents.
        catalogue: uses of each document.
        deciding: documents by which guests are appraised: stored data with the named sets in
            force.
    """

    def __init__(
        self,
        *,
        documents: DocumentStore,
        changes: CheckedDocuments,
        catalogue: Catalogue,
        deciding: PolicySource,
        tees: Tees,
        tester: PolicyTester,
    ) -> None:
        self._documents = documents
        self._changes = changes
        self._catalogue = catalogue
        self._deciding = deciding
        self._tees = tees
        self._tester = tester

    @property
    def tees(self) -> Tees:
        """The known TEEs."""
        return self._tees

    async def get(self, caller: Caller, name: str) -> str:
        """Return the text of a policy or of reference data.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: see `DocumentStore.get`.
        """
        caller.require(Right.MANAGE)
        return (await self._documents.get(document_name(name))).text

    async def list_documents(
        self, caller: Caller
    ) -> tuple[tuple[DocumentUse, Document | None], ...]:
        """Return every stored document and its use; None for a document that cannot be read.

        Raises:
            NotAuthorized, StorageError
        """
        caller.require(Right.MANAGE)
        return await self._catalogue.all()

    async def describe(self, caller: Caller, name: str) -> tuple[DocumentUse, Document | None]:
        """Return the use of a document of this name, and the document if it is stored.

        Raises:
            NotAuthorized, RequestError: a document cannot have this name.
        """
        caller.require(Right.MANAGE)
        return await self._catalogue.one(document_name(name))

    async def require_reader(self, caller: Caller, name: str, *, policy: bool) -> None:
        """Refuse a name that nothing reads and that is probably misspelled.

        Raises:
            NotAuthorized, RequestError: the message has the correct name.
        """
        caller.require(Right.MANAGE)
        kind = POLICY if policy else DATA
        await self._catalogue.require_reader(document_name(name), kind=kind)

    async def delete(self, caller: Caller, name: str) -> None:
        """Delete a document that nothing reads.

        A document in use cannot be deleted: without it every guest would be refused, and after
        a restart its packaged default would be used.

        Raises:
            NotAuthorized, NotFound, StorageError: it could not be deleted.
            RequestError: the document is in use.
        """
        caller.require(Right.MANAGE)
        checked = document_name(name)

        async def check() -> ReadRevisions:
            before = await self._changes.current(RELEASE_POLICIES)
            use = await self._catalogue.use(checked)
            if use.readers:
                raise RequestError(
                    f"{checked} decides about {' and '.join(use.readers)}; set another one instead"
                )
            return {RELEASE_POLICIES: before}

        deleted = PolicyDeleted(caller=caller.name, name=str(checked))
        await self._changes.delete(caller, checked, check, announced=deleted)

    async def set_policy(self, caller: Caller, name: str, content: bytes) -> None:
        """Check a policy and store it. If the check fails, the old policy stays in force.

        Raises:
            NotAuthorized, RequestError, PolicyInvalid, StorageError: not stored.
        """
        caller.require(Right.MANAGE)
        checked, policy = document_name(name), decode_text(content, "the policy")
        self._refuse_other_half(checked, policy=True)

        async def check(text: str) -> ReadRevisions:
            return await self._changes.check_policy(checked, text)

        # ANY: policies are never edited in place, so that replacing one loses no other change.
        await self._changes.change(
            caller,
            checked,
            lambda _: policy,
            check,
            announced=lambda text: (policy_set_event(caller, checked, text),),
            based_on=ANY,
        )
        await self._changes.prepare()

    async def set_reference(self, caller: Caller, name: str, content: bytes) -> None:
        """Check a document of data and store it. If the check fails, the old data stays in force.

        Raises:
            NotAuthorized, RequestError, NotFound, PolicyInvalid, StorageError: not stored.
            Conflict: the document changed during the check. It is not overwritten, because a
                pin or a retirement would be lost.
        """
        caller.require(Right.MANAGE)
        checked, data = document_name(name), decode_text(content, "the reference data")
        self._refuse_other_half(checked, policy=False)
        based_on = await self._changes.current(checked)
        check = self._check_of(checked)
        await self._changes.change(
            caller,
            checked,
            lambda _: data,
            check,
            announced=lambda text: (policy_set_event(caller, checked, text),),
            based_on=based_on,
        )
        await self._changes.prepare()

    async def test(
        self,
        caller: Caller,
        *,
        policy_name: str,
        policy: bytes | None,
        reference_name: str,
        reference: bytes | None,
        claims: bytes,
    ) -> PolicyDecision:
        """Return what a policy would decide; nothing is stored.

        Args:
            policy: text of the policy, or None for the stored policy of that name.
            reference: text of the data, or None for the stored data of that name; for a TEE,
                combined with the named sets in force.
            claims: the input, a JSON object.

        Raises:
            NotAuthorized, RequestError, NotFound, StorageError: there is nothing to test.
            PolicyInvalid: the policy makes no decision.
        """
        caller.require(Right.MANAGE)
        if len(claims) > MAX_CLAIMS_BYTES:
            raise RequestError(f"the input is larger than {MAX_CLAIMS_BYTES} bytes")
        parsed_claims = await offload(len(claims), partial(decode_object, claims, "the input"))
        if policy is None:
            rules = (await self._documents.get(document_name(policy_name))).text
        else:
            rules = decode_text(policy, "the policy")
        if reference is None:
            name = document_name(reference_name)
            data = await deciding_data(self._documents, self._deciding, name)
        else:
            text = decode_text(reference, "the reference data")
            data = await offload(len(text), partial(ReferenceData.parse, text))
        return await self._tester.test(PolicyDocuments.combine(rules, data), parsed_claims)

    def _check_of(self, name: Name) -> Callable[[str], Awaitable[ReadRevisions]]:
        """Return the function that checks a document of that name before it is stored."""

        async def check(text: str) -> ReadRevisions:
            if name == REFERENCE_SETS:
                sets = await offload(len(text), partial(_checked_sets, self._tees, text))
                return await self._changes.check_sets(sets, *sets)
            named = await self._named_policies(text) if name == RELEASE_POLICIES else {}
            return {**named, **await self._changes.check_data(name, text)}

        return check

    async def _named_policies(self, text: str) -> ReadRevisions:
        """Return the revisions of the release policies that the document names.

        Raises:
            RequestError: a policy is not stored, so that it would release nothing.
        """
        revisions: dict[Name, Expected] = {}
        for prefix, name in releasepolicies.parse(text).items():
            try:
                revisions[name] = (await self._documents.get(name)).revision
            except NotFound:
                raise RequestError(
                    f"there is no policy {name} for {quoted(prefix)}; "
                    f"store it first (verdict-py policy set {name} FILE)"
                ) from None
        return revisions

    def _refuse_other_half(self, name: Name, *, policy: bool) -> None:
        """Refuse to store a policy as reference data, and the reverse."""
        if not policy and str(name).endswith(".rego"):
            raise RequestError(f"{name} is the name of a policy; use 'policy set'")
        if policy and name in _DATA:
            raise RequestError(f"{name} is the name of data; use 'reference set'")
        tee = self._documents.tee_of(name)
        if tee is None:
            return
        other = self._documents.reference_name(tee) if policy else self._documents.policy_name(tee)
        if name == other:
            what, command = ("reference data", "reference") if policy else ("a policy", "policy")
            raise RequestError(f"{name} is the name of {what}; use '{command} set'")


def _checked_sets(tees: Tees, text: str) -> dict[str, referencesets.Sets]:
    """Return the named sets in a document, by TEE.

    Raises:
        RequestError: the document has another form, or a value is not one of its measurement.
    """
    sets = referencesets.parse(text)
    for tee, of_tee in sets.items():
        claims = tees.named(tee).claims
        for item in of_tee.values():
            referencesets.checked_values(claims, item.values)
    return sets


async def deciding_data(
    documents: DocumentStore, deciding: PolicySource, name: Name
) -> ReferenceData:
    """Return stored data as it decides: data of a TEE with the named sets in force.

    Raises:
        NotFound, StorageError: the data is missing, or cannot be read.
        PolicyInvalid: the data cannot be used.
    """
    tee = documents.tee_of(name)
    if tee is not None and name == documents.reference_name(tee):
        with suppress(NotFound):  # the policy may be missing, and the data stored
            return (await deciding.documents(tee)).reference
    text = (await documents.get(name)).text
    return await offload(len(text), partial(ReferenceData.parse, text))


def document_name(text: str) -> Name:
    """Return the name of a document.

    Raises:
        RequestError: it is not a name, or has several segments.
    """
    name = Name.parse(text)
    if len(name.segments) != 1:
        raise RequestError("the name of a policy or of reference data must have one segment")
    return name


def decode_text(content: bytes, what: str) -> str:
    """Return the text of a document; `what` names it in messages.

    Raises:
        RequestError: it is not UTF-8.
    """
    try:
        return content.decode()
    except UnicodeDecodeError as error:
        raise RequestError(f"{what} is not UTF-8 text, see byte {error.start}") from None
