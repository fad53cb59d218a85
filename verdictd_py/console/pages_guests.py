"""Pages of guests, and the changes that begin there: pinning and disconnecting."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final
from urllib.parse import quote, urlencode

from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py.console.operations import OperationFailed
from verdictd_py.console.receiving import AUTOMATIC
from verdictd_py.console.requests import Visit
from verdictd_py.console.revisions import revision
from verdictd_py.console.site import Answer, Site, computed, gather, http_status, path_of
from verdictd_py.console.views import guest as one
from verdictd_py.console.views.guests import Filters, guest_list
from verdictd_py.console.views.sentences import STATES

_APPRAISALS: Final = "verdictd.v1.AppraisalService"
_REFERENCES: Final = "verdictd.v1.ReferenceService"

_PERIODS: Final = ("", "10", "60")
_MAX_CONNECTED: Final = 200

_VERDICTS: Final = (
    v1.VERDICT_REFUSED,
    v1.VERDICT_UNVERIFIED,
    v1.VERDICT_ACCEPTED,
)


async def all_guests(visit: Visit) -> list[v1.Guest]:
    """Return every guest that the broker remembers."""
    requests = (v1.ListGuestsRequest(verdict=verdict) for verdict in _VERDICTS)
    calls = (visit.operations.call(f"{_APPRAISALS}/ListGuests", each) for each in requests)
    return [guest for answer in await gather(*calls) for guest in answer.guests]


async def guests_page(site: Site, visit: Visit, problem: str = "", status: int = 200) -> Answer:
    """The list of guests, with filters."""
    say = visit.language
    filters = Filters(
        verdict=visit.asked("verdict") if _has(visit, "verdict") else "refused-any",
        text=visit.asked("q"),
        rule=visit.asked("rule"),
        platform=visit.asked("platform"),
        peer=visit.asked("peer"),
        digest=visit.asked("digest"),
        same=visit.asked("same"),
    )
    frame = await site.frame(visit)
    request = v1.ListConnectedGuestsRequest(limit=_MAX_CONNECTED)
    guests, connected = await gather(all_guests(visit), _connected(visit, request))
    start, each = _number(visit.asked("start")), visit.asked("each") == "1"
    listed = await computed(guest_list, guests, filters, start, say, each=each)
    if filters.text and listed.total == 1 and listed.lines[0].guest.id == filters.text.strip():
        return Answer(status=303, location=path_of(filters.text.strip()))
    every = visit.asked("every") if visit.asked("every") in _PERIODS else ""

    def url(**changed: object) -> str:
        names = {**dict(visit.query), "start": "", AUTOMATIC: ""}
        names |= {name: str(value) for name, value in changed.items()}
        kept = {n: v for n, v in names.items() if n != "lang" and (v or n == "verdict")}
        return f"/guests?{urlencode(kept)}"

    values: dict[str, Any] = {
        "filters": filters,
        "list": listed,
        "each": each,
        "every": every,
        "title": _title(filters, listed.guests, visit),
        "url": url,
        "periods": [
            ("", say("manually")),
            ("10", say("every 10 s")),
            ("60", say("every minute")),
        ],
        "verdicts": [
            ("", say("Any")),
            ("refused-any", say("Not accepted")),
            *((state.value, say(state.name)) for state in STATES),
        ],
        "connected": connected,
        "problem": problem,
        "done": say("The guest was disconnected.") if visit.asked("done") == "disconnect" else "",
    }
    headers = {"Refresh": f"{every}; url={url(auto='1')}"} if every else {}
    return await site.page(visit, frame, "guests.html", values, status=status, headers=headers)


async def guest_page(site: Site, visit: Visit, problem: str = "", status: int = 200) -> Answer:
    """The page of one guest."""
    guest_id = visit.path.split("/")[2]
    frame = await site.frame(visit)
    values = await guest_values(site, visit, guest_id)
    done = visit.language("The values are pinned.") if visit.asked("done") == "pin" else ""
    values |= {"problem": problem or values["problem"], "done": done}
    return await site.page(visit, frame, "guest.html", values, status=status)


async def guest_values(site: Site, visit: Visit, guest_id: str) -> dict[str, Any]:
    """Return what the page of one guest displays.

    Raises:
        OperationFailed: there is no such guest, or the person may not see it.
    """
    guest = await visit.operations.call(f"{_APPRAISALS}/GetGuest", v1.GetGuestRequest(id=guest_id))
    (reference, sets), (preview, why), others, decided = await gather(
        _expected(visit, guest.tee),
        _preview(visit, guest, visit.asked_all("field") or visit.sent_all("field")),
        all_guests(visit),
        _decided(visit, guest),
    )
    expected = one.Expectations.of(reference, sets, site.meanings(guest.tee))
    page = await computed(
        one.guest_page,
        guest,
        expected,
        others,
        preview,
        visit.language,
        set_name=visit.asked("set") or visit.sent("set"),
        expires=visit.asked("expires") or visit.sent("expires"),
    )
    return {"page": page, "problem": why, "decided": decided}


@dataclass(frozen=True, slots=True)
class Decided:
    """A document that decided about a guest.

    Attributes:
        what: what it is, a key of the translations.
        digest: SHA-256 of its text at that time.
        name: its name; empty if its text is not stored.
        in_force: whether this text is in force now; None if that is not known.
        path: page that compares it with the text in force; empty if there is nothing to compare.
    """

    what: str
    digest: str
    name: str = ""
    in_force: bool | None = None
    path: str = ""


async def _decided(visit: Visit, guest: v1.Guest) -> list[Decided]:
    """Return the documents that decided about a guest, and whether they are in force now."""
    tee = quote(guest.tee, safe="")
    found = []
    for what, digest, path in (
        ("Policy", guest.policy_sha256, "/policies?name={name}"),
        ("Reference values with named sets", guest.data_sha256, f"/reference?tee={tee}"),
    ):
        if not digest:
            continue
        try:
            text = await revision(visit, digest)
        except OperationFailed:
            found.append(Decided(what, digest))
            continue
        compared = f"{path.format(name=quote(text.name, safe=''))}&revision={digest}#difference"
        decided = Decided(what, digest, text.name, text.in_force)
        found.append(decided if text.in_force else replace(decided, path=compared))
    if guest.collateral_sha256:
        found.append(Decided("Collateral", guest.collateral_sha256))
    return found


async def pin(site: Site, visit: Visit) -> str:
    """Pin measurements of a guest, into the reference data or as a named set."""
    del site
    guest_id = visit.path.split("/")[2]
    fields = visit.sent_all("field")
    if name := visit.sent("set"):
        added = v1.AddSetRequest(
            name=name, id=guest_id, fields=fields, expires_at=visit.sent("expires")
        )
        await visit.operations.call(f"{_REFERENCES}/AddSet", added)
    else:
        pinned = v1.PinValuesRequest(id=guest_id, fields=fields, revision=visit.sent("revision"))
        await visit.operations.call(f"{_REFERENCES}/PinValues", pinned)
    return f"{path_of(guest_id)}?done=pin"


async def disconnect(site: Site, visit: Visit) -> str:
    """Close the connection of a guest."""
    del site
    request = v1.DisconnectGuestRequest(id=visit.sent("id"))
    await visit.operations.call(f"{_APPRAISALS}/DisconnectGuest", request)
    return "/guests?done=disconnect#connected"


async def _connected(
    visit: Visit, request: v1.ListConnectedGuestsRequest
) -> v1.ListConnectedGuestsResponse | None:
    """Return the connected guests; None if a worker does not answer."""
    try:
        answer: v1.ListConnectedGuestsResponse = await visit.operations.call(
            f"{_APPRAISALS}/ListConnectedGuests", request
        )
    except OperationFailed as error:
        if http_status(error) == 403:
            raise
        return None
    return answer


async def _expected(
    visit: Visit, tee: str
) -> tuple[v1.Reference | None, Sequence[v1.ReferenceSet]]:
    """Return the reference data and the sets in force of a TEE, if they can be read."""
    if not tee:
        return None, ()
    try:
        reference = await visit.operations.call(
            f"{_REFERENCES}/GetReference", v1.GetReferenceRequest(tee=tee)
        )
        listed = await visit.operations.call(f"{_REFERENCES}/ListSets", v1.ListSetsRequest(tee=tee))
    except OperationFailed:
        return None, ()
    return reference, [each for each in listed.sets if each.state == "in force"]


async def _preview(
    visit: Visit, guest: v1.Guest, fields: Sequence[str]
) -> tuple[v1.PinnedValues | None, str]:
    """Return what pinning would change, and why the chosen fields cannot be pinned."""
    if guest.not_pinnable or not guest.tee:
        return None, ""
    call, name = visit.operations.call, f"{_REFERENCES}/PreviewPin"
    try:
        return await call(name, v1.PreviewPinRequest(id=guest.id, fields=fields)), ""
    except OperationFailed as error:
        if not fields:
            return None, ""
        why = error.text
    try:
        return await call(name, v1.PreviewPinRequest(id=guest.id)), why
    except OperationFailed:
        return None, why


def _title(filters: Filters, number: int, visit: Visit) -> str:
    say = visit.language
    names = {state.value: state.name for state in STATES}
    if filters.verdict == "refused-any":
        return say("%(number)d appraisals without acceptance", number=number)
    if filters.verdict in names:
        return say(
            "%(number)d appraisals: %(verdict)s", number=number, verdict=say(names[filters.verdict])
        )
    return say("%(number)d appraisals", number=number)


def _has(visit: Visit, name: str) -> bool:
    return any(key == name for key, _ in visit.query)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 7 else 0
