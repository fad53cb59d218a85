"""Attacks on the console: other sites, other hosts, stolen and used links, roles, hostile data."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.support.broker import RunningBroker
from tests.support.clock import until
from tests.support.console import connect, form, link, person, pin_good_guest, visitor
from verdictd_py._generated import clientapi_pb2, verdictd_v1_pb2
from verdictd_py.console import pages
from verdictd_py.console.operations import OperationFailed, Operations
from verdictd_py.console.receiving import MAX_SIGN_IN_BYTES
from verdictd_py.console.requests import SECURITY_HEADERS
from verdictd_py.console.server import REQUESTS_AT_ONCE, ConsoleListener
from verdictd_py.console.sessions import FAILURES
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.errors import StorageError

pytestmark = pytest.mark.broker(console="127.0.0.1:0")

PATHS = (
    *("/", "/guests", "/reference", "/policies", "/release", "/keys", "/collateral", "/audit"),
    *("/audit?verify=1", "/audit/export?form=csv"),
)


def listener(broker: RunningBroker) -> ConsoleListener:
    found = broker.daemon.listener("console")
    assert isinstance(found, ConsoleListener)
    return found


@pytest.mark.parametrize("path", [*PATHS, "/login", "/console.css", "/nothing"])
async def test_every_answer_has_the_headers(broker: RunningBroker, path: str) -> None:
    async with person(broker) as someone:
        answer = await someone.get(path)
    for name, value in SECURITY_HEADERS.items():
        if (name, path) != ("Cache-Control", "/console.css"):
            assert answer.headers[name] == value
    assert "'unsafe" not in answer.headers["Content-Security-Policy"]
    assert "Python" not in answer.headers["Server"]


async def test_without_a_session_only_the_sign_in_is_served(broker: RunningBroker) -> None:
    async with visitor(broker) as someone:
        for path in PATHS:
            answer = await someone.get(path)
            assert (answer.status_code, answer.headers["Location"]) == (303, "/login")
        for path in pages.CHANGES:
            answer = await someone.post(path.replace("{id}", "x"), [("csrf", "x")])
            assert (answer.status_code, answer.headers["Location"]) == (303, "/login")


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:80",
        "127.0.0.1.evil.example",
        "localhost.evil",
        "",
        "0.0.0.0",  # noqa: S104
        "user@127.0.0.1",
        "127.0.0.1:0",
        "[::1",
        "127.0.0.2",
        "2130706433",
        "evil.localhost",
    ],
)
async def test_another_host_is_refused(broker: RunningBroker, host: str) -> None:
    async with person(broker) as someone:
        answer = await someone.get("/", headers={"Host": host})
    assert answer.status_code == 403
    assert "This address" in answer.text or "this address" in answer.text
    assert broker.events.named("console.refused")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:9000", "LOCALHOST", "[::1]:1"])
async def test_a_name_of_loopback_is_accepted_on_every_port(
    broker: RunningBroker, host: str
) -> None:
    async with visitor(broker) as someone:
        assert (await someone.get("/login", headers={"Host": host})).status_code == 200


FOREIGN: dict[str, dict[str, str]] = {
    "cross-site": {"Sec-Fetch-Site": "cross-site"},
    "same-site": {"Sec-Fetch-Site": "same-site"},
    "origin": {"Origin": "https://evil.example"},
    "port": {"Origin": "http://127.0.0.1:1"},
    "no address": {"Origin": "http://["},
}


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
async def test_a_form_of_another_site_changes_nothing(
    broker: RunningBroker, headers: dict[str, str]
) -> None:
    async with person(broker) as someone:
        fields = form(await someone.text("/keys"), "/keys/create")
        answer = await someone.post("/keys/create", [*fields, ("name", "a/b/c")], headers=headers)
    assert answer.status_code == 403
    assert broker.events.named("key.created") == []
    assert broker.events.named("warning.bug") == []


async def test_a_change_needs_a_fresh_token_of_its_form(broker: RunningBroker) -> None:
    async with person(broker) as someone, person(broker) as other:
        page = await someone.text("/keys")
        foreign = dict(form(await other.text("/keys"), "/keys/create"))["csrf"]
        of_other_form = dict(form(page, "/keys/delete"))["csrf"]
        for token in ("", "x", foreign, of_other_form):
            answer = await someone.post("/keys/create", [("csrf", token), ("name", "a/b/c")])
            assert answer.status_code == 400
        assert broker.events.named("key.created") == []
        fields = form(page, "/keys/create")
        assert (await someone.post("/keys/create", [*fields, ("name", "a/b/c")])).status_code == 303
        again = await someone.post("/keys/create", [*fields, ("name", "a/b/d")])
        assert again.status_code == 400
    assert [event["kid"] for event in broker.events.named("key.created")] == ["a/b/c"]


async def test_a_page_never_changes_anything(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        for path in pages.CHANGES:
            answer = await someone.get(path.replace("{id}", "x") + "?csrf=x&name=a/b/c")
            assert answer.status_code in (404, 405)
    assert broker.events.named("key.created") == []


async def test_the_session_cookie_is_protected(broker: RunningBroker) -> None:
    code = (await link(broker)).partition("code=")[2]
    async with visitor(broker) as someone:
        answer = await someone.post("/login", [("code", code)])
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Strict" in cookie
    assert "Domain" not in cookie
    assert code not in cookie


async def test_a_cookie_that_someone_chose_is_never_a_session(broker: RunningBroker) -> None:
    """Another server on the same address can set one before the person signs in."""
    chosen = "A" * 43
    async with visitor(broker, cookies={"verdictd_session": chosen}) as someone:
        code = (await link(broker)).partition("code=")[2]
        answer = await someone.post("/login", [("code", code)])
        secret = answer.cookies["verdictd_session"]
        assert secret != chosen
    async with visitor(broker, cookies={"verdictd_session": chosen}) as attacker:
        assert (await attacker.get("/")).status_code == 303
    async with visitor(broker, cookies={"verdictd_session": secret}) as same:
        assert (await same.get("/")).status_code == 200


async def test_opening_a_link_does_not_use_it(broker: RunningBroker) -> None:
    """A preview of a chat program opens links; only the form signs in."""
    url = await link(broker)
    async with visitor(broker) as someone:
        opened = await someone.get("/login?" + url.partition("?")[2])
        assert "Set-Cookie" not in opened.headers
        assert (await someone.post("/login", form(opened.text, "/login"))).status_code == 303
    async with visitor(broker) as thief:
        stolen = await thief.post("/login", [("code", url.partition("code=")[2])])
        assert stolen.status_code == 403
        assert "This link does not sign in any more" in stolen.text
        assert "Set-Cookie" not in stolen.headers


async def test_signing_out_ends_the_session(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        secret = someone.client.cookies["verdictd_session"]
        assert (await someone.send("/keys", "/logout")).status_code == 303
        answer = await someone.get("/", headers={"Cookie": f"verdictd_session={secret}"})
        assert answer.headers["Location"] == "/login"


@pytest.mark.parametrize("headers", FOREIGN.values(), ids=FOREIGN)
async def test_a_form_of_another_site_signs_nobody_in_or_out(
    broker: RunningBroker, headers: dict[str, str]
) -> None:
    code = (await link(broker)).partition("code=")[2]
    async with visitor(broker) as someone:
        refused = await someone.post("/login", [("code", code)], headers=headers)
        assert refused.status_code == 403
        assert "Set-Cookie" not in refused.headers
        assert (await someone.post("/login", [("code", code)])).status_code == 303
        fields = form(await someone.text("/keys"), "/logout")
        assert (await someone.post("/logout", fields, headers=headers)).status_code == 403
        assert await someone.text("/keys")


async def test_signing_out_needs_the_token_of_its_form(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        of_other_form = dict(form(await someone.text("/keys"), "/keys/create"))["csrf"]
        for token in ("", "x", of_other_form):
            assert (await someone.post("/logout", [("csrf", token)])).status_code == 400
        large = await someone.post("/logout", [("csrf", "x" * MAX_SIGN_IN_BYTES)])
        assert large.status_code == 413
        assert await someone.text("/keys")


async def test_a_sign_in_that_cannot_be_recorded_begins_no_session(
    broker: RunningBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*events: object) -> None:
        raise StorageError("the audit trail cannot be written")

    people = listener(broker).people
    code = (await link(broker)).partition("code=")[2]
    async with visitor(broker) as someone:
        monkeypatch.setattr(people._events, "commit", full)
        answer = await someone.post("/login", [("code", code)])
    assert answer.status_code == 503
    assert "Set-Cookie" not in answer.headers
    assert people.sessions._sessions == {}


async def test_no_secret_of_a_session_is_logged(broker: RunningBroker) -> None:
    url = await link(broker)
    async with person(broker) as someone:
        secret = someone.client.cookies["verdictd_session"]
        token = dict(form(await someone.text("/keys"), "/keys/create"))["csrf"]
        await someone.post("/keys/create", [("csrf", "x")])
    logged = broker.events.text
    for text in (url.partition("code=")[2], secret, token):
        assert text not in logged


@pytest.mark.broker(console="127.0.0.1:0", console_read_only=True)
async def test_a_read_only_console_changes_nothing(broker: RunningBroker) -> None:
    await pin_good_guest(broker)
    async with person(broker) as someone:
        for path in PATHS:
            page = await someone.text(path)
            assert 'method="post"' not in page.replace('method="post" action="/logout"', "")
        for path in pages.CHANGES:
            answer = await someone.post(path.replace("{id}", "x"), [("name", "a/b/c")])
            assert answer.status_code == 403
            assert "--console-read-only" in answer.text
    assert broker.events.named("key.created") == []


# Roles: the console calls the methods of the management API, so that both decide the same.

ROLE_CALLERS = {
    "nobody": Caller("nobody", frozenset()),
    **{name: Caller(name, rights) for name, rights in ROLES.items()},
}


def _empty(method: str) -> Any:
    package, _, name = method.partition(".") if method.startswith("clientapi") else ("", "", "")
    module = clientapi_pb2 if package else verdictd_v1_pb2
    service, _, call = (name or method.removeprefix("verdictd.v1.")).partition("/")
    described = module.DESCRIPTOR.services_by_name[service].methods_by_name[call]
    return getattr(module, described.input_type.name)()


@pytest.mark.parametrize("role", ROLE_CALLERS)
async def test_each_operation_needs_the_right_that_verdict_py_needs(
    broker: RunningBroker, role: str
) -> None:
    operations: Operations = listener(broker).people.operations
    caller = ROLE_CALLERS[role]
    assert len(operations.names) > 40
    for method in operations.names:
        needs_more = method == "clientapi.KeyManagerService/GetKey"
        allowed = caller.rights >= ROLES["admin" if needs_more else "operator"]
        try:
            await operations.of(caller).call(method, _empty(method))
        except OperationFailed as error:
            denied = error.status is grpc.StatusCode.PERMISSION_DENIED
        else:
            denied = False
        assert denied != allowed, method


@pytest.mark.parametrize("role", ["nobody", "wrap"])
async def test_each_page_and_change_is_denied_to_people_without_the_right(
    broker: RunningBroker, role: str
) -> None:
    sessions = listener(broker).people.sessions
    async with visitor(broker) as someone:
        await someone.post("/login", [("code", sessions.link(ROLE_CALLERS[role]))])
        session = sessions.of_secret(someone.client.cookies["verdictd_session"])
        assert session is not None
        for path in PATHS:
            assert (await someone.get(path)).status_code == 403, path
        assert (await someone.get("/guests/x")).status_code == 403
        for pattern in pages.CHANGES:
            path = pattern.replace("{id}", "x")
            tokens = session.new_tokens()
            sent = [("csrf", tokens(path)), ("name", "a/b/c")]
            session.accept(tokens.made)
            answer = await someone.post(path, sent)
            assert answer.status_code == 403, path
    assert broker.events.named("key.created") == []


async def test_slow_forms_hold_no_turn_of_a_page(broker: RunningBroker) -> None:
    """Clients that are not signed in send their form slowly; pages are still served at once."""
    host, _, port = listener(broker).endpoint.removeprefix("http://").rpartition(":")
    writers = []
    async with person(broker) as someone:
        for _ in range(REQUESTS_AT_ONCE + 1):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(
                b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 40\r\nExpect: "
                b"100-continue\r\nContent-Type: application/x-www-form-urlencoded\r\n\r\n"
            )
            assert (await reader.readline()).startswith(b"HTTP/1.1 100")  # it is being received
            await reader.readline()
            writer.write(b"code=")
            writers.append(writer)
        asked = asyncio.create_task(someone.get("/keys"))
        await until(asked.done)
        assert asked.result().status_code == 200
    for writer in writers:
        writer.close()


async def test_an_unauthenticated_client_sends_no_large_form(broker: RunningBroker) -> None:
    async with visitor(broker) as someone:
        answer = await someone.post("/login", [("code", "x" * MAX_SIGN_IN_BYTES)])
        assert answer.status_code == 413
        assert len(answer.text) < 8192


async def test_wrong_codes_lock_nobody_out(broker: RunningBroker) -> None:
    code = (await link(broker)).partition("code=")[2]
    async with visitor(broker) as someone:
        statuses = [
            (await someone.post("/login", [("code", "guessed")])).status_code
            for _ in range(FAILURES + 1)
        ]
        assert statuses == [403] * FAILURES + [429]
        assert (await someone.post("/login", [("code", code)])).status_code == 303
    assert len(broker.events.named("console.refused")) == FAILURES


async def test_a_list_that_reloads_itself_does_not_extend_the_session(
    broker: RunningBroker,
) -> None:
    async with person(broker) as someone:
        sessions = listener(broker).people.sessions
        secret = someone.client.cookies["verdictd_session"]
        session = sessions.of_secret(secret)
        assert session is not None
        answer = await someone.get("/guests?every=10&verdict=")
        seconds, _, url = answer.headers["Refresh"].partition("; url=")
        assert seconds == "10"
        session.used_at = used = session.used_at - 1
        answer = await someone.get(url)
        assert answer.status_code == 200
        assert answer.headers["Refresh"].endswith(f"url={url}")
        assert session.used_at == used
        assert "auto=1" not in answer.text, "a link that the person follows counts"
        await someone.get(url.replace("auto=1", "auto=0"))
        assert session.used_at > used


async def test_an_operator_never_gets_a_key(broker: RunningBroker) -> None:
    """No page calls a method that returns the bytes of a key or the content of a resource."""
    import verdictd_py.console as package  # noqa: PLC0415

    sources = [path.read_text() for path in Path(package.__file__).parent.rglob("*.py")]
    for method in ("GetKey", "GetResource", "GetCredential", "GetCosignKey", "exportGpgKeyring"):
        assert not any(method in source for source in sources)


async def test_requests_that_are_no_pages(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        assert (await someone.client.put("/keys", content=b"x")).status_code == 405
        assert (await someone.client.request("TRACE", "/")).status_code in (400, 405)
        many = [("csrf", "x")] * 1000
        assert (await someone.post("/keys/create", many)).status_code == 400
        large = await someone.post("/keys/create", [("name", "x" * 2_000_000)])
        assert large.status_code == 413
        other = await someone.client.post(
            "/keys/create", json={}, headers={"Sec-Fetch-Site": "same-origin"}
        )
        assert other.status_code == 400
        for path in ("//evil.example/", "/guests/../keys/../../etc", "/%2e%2e/x", "/guests/%00"):
            answer = await someone.get(path)
            assert answer.status_code in (200, 303, 400, 403, 404)
            assert "root:" not in answer.text
            assert not answer.headers.get("Location", "/").startswith(("http", "//"))
    assert broker.events.named("warning.bug") == []


@pytest.mark.parametrize(
    "path", ["//evil.example/x", "/%5Cevil.example/x", "/%2F%2Fevil.example/x"]
)
async def test_no_link_of_an_error_page_leads_elsewhere(broker: RunningBroker, path: str) -> None:
    async with visitor(broker) as someone:
        answer = await someone.get(path)
    links = re.findall(r'href="([^"]*)"', answer.text)
    assert any("lang=" in each for each in links)
    for each in links:
        assert not re.match(r"//|/\\|[^/#?]", each), each


async def test_a_browser_cannot_be_sent_elsewhere(broker: RunningBroker) -> None:
    async with person(broker) as someone:
        for path in ("/login?back=https://evil.example", "/guests?done=//evil.example"):
            answer = await someone.get(path)
            assert not answer.headers.get("Location", "/").startswith(("http", "//"))
    await connect(broker)
