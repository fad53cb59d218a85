"""Texts that guests, operators and attackers choose: markup, formulas, characters that hide."""

from __future__ import annotations

import csv
import io
import json
import re
from contextlib import suppress
from html import unescape
from pathlib import Path
from urllib.parse import quote

import grpc
import httpx
import pytest

from tests.support.broker import RunningBroker
from tests.support.clock import elapse
from tests.support.console import PINNED, person, pin_good_guest
from tests.support.eventlogs import command_line, event, written
from tests.support.kbs import url_of
from tests.support.rcar_guests import attest, connected, tdx_guest
from verdictd_py._generated import verdictd_v1_pb2, verdictd_v1_pb2_grpc
from verdictd_py.broker.revisions import PAUSE_SECONDS
from verdictd_py.encoding import JsonValue
from verdictd_py.errors import VerdictdError
from verdictd_py.events.chain import FIRST, sealed
from verdictd_py.guest.rcar.evidence import SampleEvidence
from verdictd_py.guest.rcar.session import RcarGuest

pytestmark = pytest.mark.broker(console="127.0.0.1:0")

EVIL = "<script>alert(1)</script>\u202e\u200b\x1b[2J\"'"
SAMPLE = {"insecure_sample_verifier": True, "insecure_sample_data_dir": True}


def require_text(page: str) -> None:
    """Require that nothing of `EVIL` is markup, or changes how other text appears."""
    assert "<script" not in page
    for character in "\u202e\u200b\x1b":
        assert character not in page


def section(page: str, name: str) -> str:
    """Return a part of a page by its id."""
    return page[page.index(f'id="{name}"') :].partition("</section>")[0]


class Svn(SampleEvidence):
    """Evidence with any text for its only claim."""

    def __init__(self, svn: str) -> None:
        self._svn = svn

    def collect(self, digest: bytes) -> JsonValue:
        found = super().collect(digest)
        assert isinstance(found, dict)
        return {**found, "svn": self._svn}


async def boot(broker: RunningBroker, guest: RcarGuest) -> None:
    """Have a guest attest once; it may be refused."""
    with suppress(VerdictdError):
        async with connected(url_of(broker), guest) as session:
            await attest(session)


@pytest.mark.broker(console="127.0.0.1:0", kbs=True)
async def test_events_that_are_new_since_the_last_boot_are_text(broker: RunningBroker) -> None:
    await pin_good_guest(broker)
    good = written(event(1, 0x80000007, b"action"), command_line(b"quiet"))
    evil = written(event(1, 0x80000007, EVIL.encode()), command_line(EVIL.encode()))
    await boot(broker, tdx_guest(broker.platform, event_log=good))
    refused = str(broker.events.named("guest.refused")[-1]["appraisal"])
    async with person(broker) as someone:
        fields = [("field", each) for each in PINNED]
        answer = await someone.send(f"/guests/{refused}", f"/guests/{refused}/pin", fields)
        assert answer.status_code == 303, answer.text
        for log in (good, evil):
            await boot(broker, tdx_guest(broker.platform, event_log=log))
        accepted = str(broker.events.named("guest.accepted")[-1]["appraisal"])
        refused = str(broker.events.named("guest.refused")[-1]["appraisal"])
        page = await someone.text(f"/guests/{refused}")
    since = section(page, "since")
    assert accepted in since
    assert "&lt;script&gt;alert(1)" in since
    assert since.count("added") >= 2
    require_text(page)
    assert broker.events.named("warning.bug") == []


@pytest.mark.broker(console="127.0.0.1:0", kbs=True, unsafe=SAMPLE)
async def test_claims_that_changed_since_the_last_boot_are_text(broker: RunningBroker) -> None:
    """Claims of a TEE may be any text; those of sample guests are what the guest sends."""
    for svn in ("1", EVIL):
        await boot(broker, RcarGuest(Svn(svn)))
    accepted = str(broker.events.named("guest.accepted")[-1]["appraisal"])
    async with person(broker) as someone:
        page = await someone.text(f"/guests/{accepted}")
        listed = await someone.text("/guests?verdict=")
    since = section(page, "since")
    assert re.findall(r'<th scope="row"><code>([^<]*)', since) == ["svn"]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;\\u202e\\u200b\\x1b[2J" in since
    require_text(page)
    require_text(listed)


async def test_the_texts_of_revisions_are_text(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        source = unescape((await someone.text("/policies")).partition("<textarea")[2])
        source = source.partition(">")[2].partition("</textarea>")[0].lstrip("\n").rstrip()
        async with grpc.aio.insecure_channel(broker.client_api) as channel:
            documents = verdictd_v1_pb2_grpc.DocumentServiceStub(channel)
            for text in (f"{source}\n# {EVIL}\n", f"{source}\n"):
                await documents.SetPolicy(
                    verdictd_v1_pb2.SetPolicyRequest(name="tdxPolicy.rego", content=text.encode())
                )
                await elapse(PAUSE_SECONDS)
        listed = await someone.text("/policies?name=tdxPolicy.rego")
        paths = re.findall(r'href="(\?[^"#]*)#difference"', unescape(listed))
        pages = [await someone.text("/policies" + path) for path in paths]
    assert any("&lt;script&gt;alert(1)" in page for page in pages)
    for page in (listed, *pages):
        require_text(page)
    assert broker.events.named("warning.bug") == []


FORMULAS = ("=1+1", "+1", "-1+cmd|' /C calc'!A0", "@SUM(1)", "\t=1", " =1", "\uff1d1", "|x")


def trail_of(broker: RunningBroker) -> list[str]:
    """Write a file with hostile records, as an attacker can; return the values of `kid`."""
    kids = [EVIL, *FORMULAS, "a\r\nSet-Cookie: x=1\r\n\r\nCEF:0|forged|", "c1=forged c2\\= | ="]
    lines, previous = b"", FIRST
    for number, kid in enumerate(kids):
        members = {"time": f"2099-01-01T00:00:{number:02}+00:00", "event": "key.created"}
        fields = {"caller": EVIL, "kid": kid, "peer": EVIL, EVIL: EVIL}
        line, previous = sealed({**members, "number": number, "fields": fields}, previous)
        lines += line
    other = {"time": EVIL, "event": f"{EVIL}|9|forged=1", "number": EVIL, "fields": {}}
    lines += json.dumps(other).encode() + b"\n<script>alert(1)</script>\n"
    name = EVIL.replace("/", "")
    (Path(broker.data) / "audit" / f"20990101T000000Z-{name}.jsonl").write_bytes(lines)
    return kids


async def test_hostile_records_are_text_on_the_page(broker: RunningBroker) -> None:
    kids = trail_of(broker)
    async with person(broker) as someone:
        pages = [await someone.text(path) for path in ("/audit", "/audit?verify=1")]
        found = await someone.get("/audit", params={"text": EVIL, "event": EVIL, "since": EVIL})
    for page in pages:
        assert page.count("&lt;script&gt;alert(1)") > len(kids)
    assert "&lt;script&gt;alert(1)" in section(pages[1], "verify")
    for page in (*pages, found.text):
        require_text(page)
    assert broker.events.named("warning.bug") == []


async def export(broker: RunningBroker, form: str) -> httpx.Response:
    async with person(broker) as someone:
        answer = await someone.get("/audit/export", params={"form": form, "since": "2099"})
    assert answer.status_code == 200
    assert answer.headers["Content-Disposition"].startswith("attachment; ")
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert all(" " <= character <= "~" or character in "\r\n" for character in answer.text)
    return answer


async def test_no_cell_of_an_export_is_a_formula(broker: RunningBroker) -> None:
    kids = trail_of(broker)
    answer = await export(broker, "csv")
    rows = list(csv.reader(io.StringIO(answer.text, newline=""), strict=True))
    assert len({len(row) for row in rows}) == 1
    created = [row for row in rows if "key.created" in row]
    assert len(created) == len(kids)
    for cell in (cell for row in rows for cell in row):
        assert cell.strip(" ")[:1] not in tuple("=+-@|"), cell
    objects = [row[rows[0].index("object")] for row in created]
    assert "'=1+1" in objects
    assert "'-1+cmd|' /C calc'!A0" in objects
    assert "\\uff1d1" in objects


async def test_a_record_is_one_line_of_json_with_its_values(broker: RunningBroker) -> None:
    kids = trail_of(broker)
    lines = (await export(broker, "jsonl")).text.splitlines()
    records = [json.loads(line) for line in lines]
    created = [each["fields"] for each in records if each.get("event") == "key.created"]
    assert [fields["kid"] for fields in created] == kids
    assert all(fields[EVIL] == EVIL for fields in created)


async def test_a_record_is_one_line_of_cef_without_forged_members(broker: RunningBroker) -> None:
    kids = trail_of(broker)
    lines = (await export(broker, "cef")).text.splitlines()
    assert sum("|key.created|" in line for line in lines) == len(kids)
    for line in lines:
        *header, members = re.split(r"(?<!\\)\|", line, maxsplit=7)
        assert header[:3] == ["CEF:0", "verdictd-py", "verdictd-py"]
        assert header[6] in ("3", "6")
        names = re.findall(r"(\w+)=", re.sub(r"\\.", "", members))
        assert len(names) == len(set(names)), line
        assert not {"c1", "c2"} & set(names)


QUERY = (
    *("q", "rule", "platform", "peer", "digest", "same", "name", "tee", "path", "guest", "set"),
    *("expires", "field", "retire", "delete", "done", "lang", "query", "revision", "keys"),
    *("text", "event", "since", "until"),
)
"""Names of values in the addresses of pages."""


async def test_values_of_an_address_are_text(broker: RunningBroker) -> None:
    await pin_good_guest(broker)
    async with person(broker) as someone:
        for path in ("/guests", "/policies", "/reference", "/release", "/keys", "/audit"):
            for name in QUERY:
                answer = await someone.get(path, params={name: EVIL})
                require_text(answer.text)
        missing = await someone.get("/guests/" + quote(EVIL, safe=""))
        assert missing.status_code == 404
        require_text(missing.text)
    assert broker.events.named("warning.bug") == []
