"""Conversion of the broker's values to messages of the package `verdictd.v1`."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as messages
from verdictd_py.broker.catalogue import DocumentUse
from verdictd_py.broker.judgement import Judgement, Verdict
from verdictd_py.broker.pinning import PinPreview
from verdictd_py.broker.policytests import PolicyTest
from verdictd_py.broker.references import ReferenceView
from verdictd_py.broker.revisions import Revision
from verdictd_py.broker.standing import GuestStatus
from verdictd_py.broker.uses import Use
from verdictd_py.documents.referencesets import ReferenceSet
from verdictd_py.errors import Reason
from verdictd_py.ports import Document, StoredName

VERDICTS: Final = {
    messages.VERDICT_REFUSED: Verdict.REFUSED,
    messages.VERDICT_UNVERIFIED: Verdict.UNVERIFIED,
    messages.VERDICT_ACCEPTED: Verdict.ACCEPTED,
}
NUMBERS: Final = {verdict: number for number, verdict in VERDICTS.items()}


def key(stored: StoredName, use: Use | None = None) -> messages.Key:
    """Describe a key, without its bytes."""
    return messages.Key(
        name=stored.name,
        changed_at=time(stored.changed),
        size=stored.size,
        problem=stored.problem,
        releases=0 if use is None else use.number,
        last_released_at="" if use is None else time(use.last_at),
    )


def resource(stored: StoredName, use: Use | None = None) -> messages.Resource:
    """Describe a resource, without its content."""
    return messages.Resource(
        path=stored.name,
        file=stored.file,
        changed_at=time(stored.changed),
        size=stored.size,
        problem=stored.problem,
        releases=0 if use is None else use.number,
        last_released_at="" if use is None else time(use.last_at),
    )


def pinned(pin: PinPreview) -> messages.PinnedValues:
    """Describe what pinning changes."""
    changes = [
        messages.Change(field=change.field, accepted=change.accepted, added=change.added)
        for change in pin.changes
    ]
    return messages.PinnedValues(
        guest=guest(pin.judgement), name=str(pin.name), changes=changes, revision=pin.revision
    )


def reference(view: ReferenceView) -> messages.Reference:
    """Reference data of a TEE, stored and as it decides."""
    return messages.Reference(
        name=str(view.name),
        content=view.stored,
        unpinned=view.unpinned,
        deciding=view.deciding_text,
        unread=view.unread,
        problem=view.problem,
    )


def revision(found: Revision, *, in_force: bool, content: bool = False) -> messages.Revision:
    """Describe a text that was in force.

    Args:
        content: whether the message has the text.
    """
    return messages.Revision(
        name=found.name,
        sha256=found.sha256,
        since=time(found.since),
        in_force=in_force,
        content=found.text if content else "",
    )


def document(use: DocumentUse, stored: Document | None) -> messages.Document:
    """A stored document and what reads it.

    Args:
        stored: None for one that cannot be read.
    """
    return messages.Document(
        name=str(use.name),
        kind=use.kind,
        read_by=use.readers,
        remark=use.remark,
        sha256="" if stored is None else stored.revision,
        size=0 if stored is None else len(stored.text.encode()),
        problem="it is missing, or cannot be read" if stored is None else "",
        in_force=use.decides and stored is not None,
    )


def reference_set(tee: str, name: str, values: ReferenceSet, state: str) -> messages.ReferenceSet:
    """Describe a named set of reference values."""
    accepted = [
        messages.Accepted(field=field, values=allowed) for field, allowed in values.values.items()
    ]
    return messages.ReferenceSet(
        tee=tee,
        name=name,
        values=accepted,
        added_by=values.added_by,
        added_at=time(values.added_at),
        evidence=values.evidence,
        appraisal=values.appraisal,
        expires_at="" if values.expires_at is None else time(values.expires_at),
        state=state,
    )


def guest(judgement: Judgement) -> messages.Guest:
    """Describe an appraised guest."""
    fmspc, decided_by = judgement.claims.get("fmspc", ""), judgement.decided_by
    return messages.Guest(
        id=judgement.id,
        at=time(judgement.at),
        peer=judgement.address,
        verdict=NUMBERS[judgement.verdict],
        code=judgement.code,
        tee=judgement.tee or "",
        form=judgement.form,
        tcb_status=judgement.tcb_status,
        advisory_ids=judgement.advisory_ids,
        fmspc=fmspc if isinstance(fmspc, str) else "",
        evidence=judgement.evidence,
        claims=json.dumps(dict(judgement.claims)) if judgement.claims else "",
        reasons=list(map(_reason, judgement.reasons)),
        not_pinnable=judgement.not_pinnable,
        withheld_claims=judgement.withheld,
        times=judgement.times,
        first_at=time(judgement.first_at or judgement.at),
        measurements=judgement.measurements,
        platform=judgement.platform or "",
        earlier=judgement.earlier,
        judged=judgement.judged,
        policy_sha256="" if decided_by is None else decided_by.policy,
        data_sha256="" if decided_by is None else decided_by.data,
        collateral_sha256=judgement.collateral,
    )


def _reason(reason: Reason) -> messages.Reason:
    return messages.Reason(**reason.as_json(), kind=reason.kind.name.lower())


def connected_guest(status: GuestStatus) -> messages.ConnectedGuest:
    """Describe a connected guest."""
    return messages.ConnectedGuest(
        id=status.id,
        peer=status.address,
        tee=status.tee,
        connected_at=time(status.connected_at),
        appraised_at=time(status.appraised_at),
        standing=status.standing.value,
        code=status.code,
        appraisal=status.appraisal,
        reasons=status.reasons,
    )


def policy_test(request: messages.TestPolicyRequest) -> PolicyTest:
    """Return the request for a test of a policy."""
    has = request.HasField
    return PolicyTest(
        policy=request.policy,
        policy_text=request.policy_content if has("policy_content") else None,
        reference=request.reference,
        reference_text=request.reference_content if has("reference_content") else None,
        claims=request.claims,
        guest=request.id,
        tee=request.tee,
    )


def time(moment: datetime) -> str:
    """Return a time as RFC 3339 text in UTC."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
