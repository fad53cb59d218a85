"""Messages of package `verdictd.v1` from what the broker knows."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Final

from verdictd_py._generated import verdictd_v1_pb2 as messages
from verdictd_py.broker.administration import MAX_PAGE
from verdictd_py.broker.history import Judgement, Verdict
from verdictd_py.broker.pinning import Pin
from verdictd_py.broker.policytests import PolicyTest
from verdictd_py.documents.referencesets import ReferenceSet
from verdictd_py.ports import StoredName

VERDICTS: Final = {
    messages.VERDICT_REFUSED: Verdict.REFUSED,
    messages.VERDICT_UNVERIFIED: Verdict.UNVERIFIED,
    messages.VERDICT_ACCEPTED: Verdict.ACCEPTED,
}
NUMBERS: Final = {verdict: number for number, verdict in VERDICTS.items()}


def key(stored: StoredName) -> messages.Key:
    """A key without its bytes."""
    return messages.Key(
        name=stored.name,
        changed_at=time(stored.changed),
        size=stored.size,
        problem=stored.problem,
    )


def resource(stored: StoredName) -> messages.Resource:
    """A resource without its content."""
    return messages.Resource(
        path=stored.name,
        file=stored.file,
        changed_at=time(stored.changed),
        size=stored.size,
        problem=stored.problem,
    )


def next_page(page: tuple[StoredName, ...], asked: int) -> str:
    """The token is the last name: a page that came back full may have another behind it."""
    return page[-1].name if page and len(page) == min(asked or MAX_PAGE, MAX_PAGE) else ""


def pinned(pin: Pin) -> messages.PinnedValues:
    """What pinning changes."""
    changes = [
        messages.Change(field=change.field, accepted=change.accepted, added=change.added)
        for change in pin.changes
    ]
    return messages.PinnedValues(
        guest=guest(pin.judgement), name=str(pin.name), changes=changes, revision=pin.revision
    )


def reference_set(tee: str, name: str, each: ReferenceSet, state: str) -> messages.ReferenceSet:
    """A named set of reference values."""
    accepted = [
        messages.Accepted(field=field, values=values) for field, values in each.values.items()
    ]
    return messages.ReferenceSet(
        tee=tee,
        name=name,
        values=accepted,
        added_by=each.added_by,
        added_at=time(each.added_at),
        evidence=each.evidence,
        appraisal=each.appraisal,
        expires_at="" if each.expires_at is None else time(each.expires_at),
        state=state,
    )


def guest(judgement: Judgement) -> messages.Guest:
    """One guest, judged."""
    fmspc = judgement.claims.get("fmspc", "")
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
        reasons=[messages.Reason(**reason.as_json()) for reason in judgement.reasons],
        not_pinnable=judgement.not_pinnable,
        withheld_claims=judgement.withheld,
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
    """RFC 3339, in UTC."""
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
