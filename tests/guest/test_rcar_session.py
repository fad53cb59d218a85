"""A guest's session with a misbehaving KBS; tests/system covers a real one."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
import trustme

from tests.support.clock import elapse
from tests.support.fake_kbs import (
    CHALLENGE,
    ERRORS,
    SECRET,
    FakeKbs,
    error,
    jwt,
    sealed,
    sealed_as_before_0_2_0,
)
from tests.support.rcar_guests import attest, connected, sample_guest, session_id, use_session_id
from verdictd_py.domain.names import ResourcePath
from verdictd_py.errors import ConfigError
from verdictd_py.guest.connection import BrokerRefused, BrokerUnreachable
from verdictd_py.guest.rcar import http
from verdictd_py.guest.rcar.errors import MAX_DETAIL_CHARACTERS, AnswerInvalid, KbsRefused
from verdictd_py.guest.rcar.http import KbsLink
from verdictd_py.guest.rcar.keys import TeeKeyKind
from verdictd_py.guest.rcar.messages import Version
from verdictd_py.guest.rcar.session import RcarGuest, RcarSession
from verdictd_py.guest.rcar.token import Token

URL = "http://127.0.0.1:8080"
PATH = ResourcePath.parse("default/key/1")
GET = f"resource/{PATH}"


@pytest.fixture(scope="module")
def guest() -> RcarGuest:
    return sample_guest()


@asynccontextmanager
async def session_with(
    kbs: FakeKbs, guest: RcarGuest, token: Token | None = None
) -> AsyncIterator[RcarSession]:
    async with connected(URL, guest, transport=kbs.transport, token=token) as session:
        yield session


def answering(**answers: httpx.Response) -> FakeKbs:
    return FakeKbs({name.replace("get", GET): [answer] for name, answer in answers.items()})


class TestGettingAResource:
    async def test_a_resource_is_requested_first_and_after_a_401_the_guest_attests(
        self, guest: RcarGuest
    ) -> None:
        key = guest.tee_key
        success = httpx.Response(200, json=sealed(key, SECRET))
        kbs = FakeKbs({GET: [error(401, "AttestationError"), success]})
        async with session_with(kbs, guest) as session:
            assert (await session.resource(PATH)).reveal() == SECRET
            assert (await session.resource(PATH)).reveal() == SECRET
        assert kbs.paths == [GET, "auth", "attest", GET, GET]

    async def test_the_answer_has_the_form_of_the_version(self) -> None:
        for version, seal in (
            (Version.V0_1_1, sealed_as_before_0_2_0),
            (Version.V0_2_0, sealed),
            (Version.V0_4_0, sealed),
        ):
            guest = sample_guest(version, TeeKeyKind.RSA)
            kbs = answering(get=httpx.Response(200, json=seal(guest.tee_key)))
            async with session_with(kbs, guest) as session:
                assert (await session.resource(PATH)).reveal() == SECRET

    async def test_a_resource_is_requested_at_most_three_times(self, guest: RcarGuest) -> None:
        kbs = FakeKbs({GET: [error(401, "TokenNotFound", "who are you")]})
        async with session_with(kbs, guest) as session:
            with pytest.raises(KbsRefused, match="TokenNotFound: who are you"):
                await session.resource(PATH)
        assert kbs.paths == [GET, "auth", "attest"] * 3

    @pytest.mark.parametrize(
        "answer",
        [
            httpx.Response(401),
            httpx.Response(401, text="no"),
            httpx.Response(401, json={"detail": "no"}),
            httpx.Response(401, json={"type": 5, "detail": "no"}),
            error(403, "PolicyDeny"),
            error(404, "PluginInternalError"),
            httpx.Response(500),
        ],
    )
    async def test_other_errors_end_the_attempts(
        self, guest: RcarGuest, answer: httpx.Response
    ) -> None:
        """A guest also gives up after a 401 whose body is not an error it can read."""
        kbs = answering(get=answer)
        async with session_with(kbs, guest) as session:
            with pytest.raises(KbsRefused) as raised:
                await session.resource(PATH)
        assert kbs.paths == [GET]
        assert raised.value.status == answer.status_code

    async def test_a_refused_handshake_ends_the_attempts(self, guest: RcarGuest) -> None:
        kbs = answering(get=error(401, "TokenNotFound"), attest=error(401, "AttestationError"))
        async with session_with(kbs, guest) as session:
            with pytest.raises(KbsRefused) as raised:
                await session.resource(PATH)
        assert (raised.value.status, raised.value.variant) == (401, "AttestationError")
        assert kbs.paths == [GET, "auth", "attest"]

    async def test_with_a_token_there_is_neither_cookie_nor_handshake(
        self, guest: RcarGuest
    ) -> None:
        token = Token.parse(jwt({"exp": 1}))  # that is for the KBS to say
        kbs = answering(get=error(401, "TokenVerifierError"))
        async with session_with(kbs, guest, token) as session:
            with pytest.raises(KbsRefused, match="TokenVerifierError"):
                await session.resource(PATH)
        (asked,) = kbs.asked
        assert asked.headers["authorization"] == f"Bearer {jwt({'exp': 1})}"
        assert "cookie" not in asked.headers

    async def test_a_path_is_sent_unchanged(self, guest: RcarGuest) -> None:
        kbs = answering(get=httpx.Response(200, json=sealed(guest.tee_key)))
        async with session_with(kbs, guest) as session:
            await session.get(f"{PATH}?a=b%20c")
        assert kbs.asked[0].url.raw_path == b"/kbs/v0/resource/default/key/1?a=b%20c"


class TestCookies:
    @staticmethod
    def setting(cookie: str) -> FakeKbs:
        challenge = httpx.Response(200, json=CHALLENGE, headers={"set-cookie": cookie})
        return answering(auth=challenge, get=error(404, "PluginInternalError"))

    async def test_the_cookie_of_the_session_is_sent_back(self, guest: RcarGuest) -> None:
        kbs = self.setting("kbs-session-id=abc; Path=/kbs; HttpOnly; Max-Age=300")
        async with session_with(kbs, guest) as session:
            await session.handshake()
            assert session_id(session) == "abc"
            assert kbs.asked[1].headers["cookie"] == "kbs-session-id=abc"
            use_session_id(session, "other")
            with pytest.raises(KbsRefused):
                await session.get(str(PATH))
        assert kbs.asked[2].headers["cookie"] == "kbs-session-id=other"

    @pytest.mark.parametrize(
        "attributes",
        ["Path=/other", "Path=/kbs/v1", "Path=/kbs; Secure", "Path=/kbs; Max-Age=0",
         "Path=/kbs; Domain=example.org"],
    )  # fmt: skip
    async def test_a_cookie_for_another_scope_is_not_sent(
        self, guest: RcarGuest, attributes: str
    ) -> None:
        kbs = self.setting(f"kbs-session-id=abc; {attributes}")
        async with session_with(kbs, guest) as session:
            await session.handshake()
        assert "cookie" not in kbs.asked[1].headers


class TestRefusals:
    async def test_a_refusal_repeats_the_text_of_the_broker(self, guest: RcarGuest) -> None:
        kbs = answering(auth=error(401, "ProtocolVersion", "KBS Client Protocol Version Mismatch"))
        async with session_with(kbs, guest) as session:
            with pytest.raises(KbsRefused) as raised:
                await session.handshake()
        refused = raised.value
        assert str(refused) == (
            "the KBS answered /auth with 401, ProtocolVersion: KBS Client Protocol Version Mismatch"
        )
        assert isinstance(refused, BrokerRefused)
        assert refused.error_type == f"{ERRORS}ProtocolVersion"
        assert (refused.variant, refused.has_body) == ("ProtocolVersion", True)

    async def test_a_long_text_is_cut(self, guest: RcarGuest) -> None:
        kbs = answering(auth=error(401, "x" * 9999, "y" * 99_999))
        async with session_with(kbs, guest) as session:
            with pytest.raises(KbsRefused) as raised:
                await session.auth()
        assert len(str(raised.value)) < 2 * MAX_DETAIL_CHARACTERS + 100

    @pytest.mark.parametrize("status", [301, 302, 307, 308])
    async def test_redirects_are_not_followed(self, guest: RcarGuest, status: int) -> None:
        kbs = answering(auth=httpx.Response(status, headers={"location": f"{URL}/kbs/v0/attest"}))
        async with session_with(kbs, guest) as session:
            with pytest.raises(KbsRefused) as raised:
                await session.handshake()
        assert raised.value.status == status
        assert kbs.paths == ["auth"]

    @pytest.mark.parametrize("status", [201, 204, 400, 413, 500, 503])
    async def test_only_status_200_is_success(self, guest: RcarGuest, status: int) -> None:
        kbs = answering(attest=httpx.Response(status, json={"token": jwt({})}))
        async with session_with(kbs, guest) as session:
            with pytest.raises(KbsRefused) as raised:
                await session.handshake()
        assert (raised.value.status, raised.value.variant) == (status, "")


class TestGarbage:
    @pytest.mark.parametrize(
        "body",
        [b"", b"\xff", b"[]", b"{}", b"[" * 100_000, b'{"nonce":5,"extra-params":""}',
         b'{"nonce":"n"}', b'{"nonce":"n","extra-params":{"selected-hash-algorithm":"sm3"}}'],
    )  # fmt: skip
    async def test_challenges(self, guest: RcarGuest, body: bytes) -> None:
        kbs = answering(auth=httpx.Response(200, content=body))
        async with session_with(kbs, guest) as session:
            with pytest.raises(AnswerInvalid):
                await session.handshake()

    @pytest.mark.parametrize(
        "body",
        [{}, {"token": 5}, {"token": ""}, {"token": "a.b"}, {"token": "a.b.c.d"},
         {"token": "e30.e30="}, {"token": "e30.W10.c2ln"}, {"token": "e30.e30.?"},
         {"token": jwt({"exp": "soon"})}, {"token": jwt({"nbf": True})},
         {"token": jwt({"iat": None})}, {"token": jwt({"nonce": {}})},
         {"token": jwt({"aud": [5]})}, []],
    )  # fmt: skip
    async def test_tokens(self, guest: RcarGuest, body: Any) -> None:
        kbs = answering(attest=httpx.Response(200, json=body))
        async with session_with(kbs, guest) as session:
            with pytest.raises(AnswerInvalid) as raised:
                await session.handshake()
        assert "e30" not in str(raised.value)

    async def test_resources(self, guest: RcarGuest) -> None:
        kbs = answering(get=httpx.Response(200, content=SECRET))
        async with session_with(kbs, guest) as session:
            with pytest.raises(AnswerInvalid) as raised:
                await session.resource(PATH)
        assert SECRET[:8].decode() not in repr(raised.value)
        assert raised.value.__cause__ is None

    @pytest.mark.parametrize("status", [200, 401])
    async def test_no_end(
        self, guest: RcarGuest, status: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(http, "MAX_ANSWER_BYTES", 100)
        sent = 0

        class Endless(httpx.AsyncByteStream):
            async def __aiter__(self) -> AsyncIterator[bytes]:
                nonlocal sent
                while True:
                    sent += 1
                    yield b" " * 10

        def answer(request: httpx.Request) -> httpx.Response:
            del request
            return httpx.Response(status, stream=Endless())

        async with session_with(FakeKbs({"auth": [answer]}), guest) as session:
            with pytest.raises(AnswerInvalid, match="larger than 100 bytes"):
                await session.auth()
        assert sent == 11

    async def test_compressed_answers_are_not_unpacked(self, guest: RcarGuest) -> None:
        """The size limit applies to received bytes; the guest requested no compression."""
        headers = {"content-encoding": "gzip"}

        def answer(request: httpx.Request) -> httpx.Response:
            assert request.headers["accept-encoding"] == "identity"
            return httpx.Response(200, stream=httpx.ByteStream(b"\x1f\x8b\x08"), headers=headers)

        async with session_with(FakeKbs({"auth": [answer]}), guest) as session:
            with pytest.raises(AnswerInvalid, match="not JSON"):
                await session.auth()


@asynccontextmanager
async def served(
    answer: bytes,
    tls: ssl.SSLContext | None = None,
    *,
    unasked: bool = False,
    sent: asyncio.Event | None = None,
) -> AsyncIterator[str]:
    """Run a server that answers every client with the same bytes, and yield its URL.

    Args:
        unasked: it answers before it has received a request.
        sent: set when an answer was sent.
    """
    talks: set[asyncio.Task[None]] = set()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(asyncio.IncompleteReadError, ConnectionError):
            if not unasked:
                await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            if sent is not None:
                sent.set()
            while await reader.read(65_536):
                pass
        writer.close()
        with suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.ensure_future(talk(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=tls)
    async with server:
        scheme = "http" if tls is None else "https"
        yield f"{scheme}://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        await asyncio.gather(*talks)


def whole(body: object) -> bytes:
    """Return the bytes of an answer with status 200."""
    content = json.dumps(body).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % len(content) + content


class TestNetwork:
    async def test_a_refused_connection_is_reported(self, guest: RcarGuest) -> None:
        async with served(b"") as url:
            pass
        async with connected(url, guest) as session:
            with pytest.raises(BrokerUnreachable, match="is it running"):
                await session.auth()

    @pytest.mark.parametrize("answer", [b"", whole(CHALLENGE)[:-1]])
    async def test_an_incomplete_answer_times_out(self, guest: RcarGuest, answer: bytes) -> None:
        sent = asyncio.Event()
        async with (
            served(answer, sent=sent) as url,
            connected(url, guest, timeout_seconds=60) as session,
        ):
            waiting = asyncio.create_task(session.auth())
            await sent.wait()
            await elapse(60)
            with pytest.raises(BrokerUnreachable, match="did not answer in time"):
                await waiting

    async def test_an_answer_that_is_not_http_is_reported(self, guest: RcarGuest) -> None:
        async with served(b"SSH-2.0-OpenSSH_9.2\r\n\r\n") as url, connected(url, guest) as session:
            with pytest.raises(
                BrokerUnreachable, match=r"does not answer with valid HTTP.*https://"
            ) as raised:
                await session.auth()
        assert "SSH" not in str(raised.value)

    async def test_a_proxy_in_the_environment_is_not_used(
        self, guest: RcarGuest, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for name in ("HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, "http://127.0.0.1:1")
        async with served(whole(CHALLENGE)) as url, connected(url, guest) as session:
            assert (await session.auth()).nonce == CHALLENGE["nonce"]


class TestTls:
    @pytest_asyncio.fixture
    async def url(self, tmp_path: Path) -> AsyncIterator[str]:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(tmp_path / "ca.pem")
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        async with served(whole(CHALLENGE), context) as url:
            yield url

    async def test_an_untrusted_kbs_receives_nothing(self, guest: RcarGuest, url: str) -> None:
        async with connected(url, guest) as session:
            with pytest.raises(BrokerRefused, match="name its CA") as raised:
                await session.auth()
        assert not isinstance(raised.value, BrokerUnreachable)

    async def test_a_port_without_tls_is_reported(self, guest: RcarGuest) -> None:
        async with (
            served(b"HTTP/1.1 400 Bad Request\r\n\r\n", unasked=True) as url,
            connected(url.replace("http:", "https:"), guest) as session,
        ):
            with pytest.raises(BrokerRefused, match="does not use TLS"):
                await session.auth()

    @pytest.mark.parametrize("scheme", ["HTTPS:", "Https:", "httpS:"])
    async def test_a_scheme_in_capitals_is_verified_too(
        self, guest: RcarGuest, url: str, scheme: str
    ) -> None:
        async with connected(url.replace("https:", scheme), guest) as session:
            with pytest.raises(BrokerRefused, match="name its CA"):
                await session.auth()

    @pytest.mark.parametrize("trust", ["ca", "insecure_no_tls_verification"])
    async def test_a_ca_is_trusted_or_nothing_is_verified(
        self, guest: RcarGuest, url: str, trust: str, tmp_path: Path
    ) -> None:
        link: dict[str, Any] = {trust: tmp_path / "ca.pem" if trust == "ca" else True}
        async with connected(url, guest, **link) as session:
            assert (await session.auth()).nonce == CHALLENGE["nonce"]

    async def test_an_unreadable_ca_is_reported(self, guest: RcarGuest, tmp_path: Path) -> None:
        (tmp_path / "ca.pem").write_text("no certificate")
        for ca in (tmp_path / "ca.pem", tmp_path / "none.pem"):
            with pytest.raises(ConfigError, match="cannot read a CA in PEM"):
                async with connected("https://127.0.0.1:1", guest, ca=ca):
                    pass


class TestLink:
    @pytest.mark.parametrize(
        "url",
        ["http://127.0.0.1:8080", "http://[::1]:8080", "http://localhost", "https://kbs:8080",
         "https://10.0.0.1", "https://kbs/"],
    )  # fmt: skip
    def test_good(self, url: str) -> None:
        assert KbsLink(url).url == url

    @pytest.mark.parametrize(
        ("url", "message"),
        [
            ("", "is not http"),
            ("kbs:8080", "is not http"),
            ("ftp://kbs", "is not http"),
            ("https://", "is not http"),
            ("https://kbs/prefix", "is not http"),
            ("https://user:word@kbs", "is not http"),
            ("https://kbs/?a=b", "is not http"),
            ("https://kbs/#a", "query or fragment"),
            ("https://kbs:port", "is not http"),
            ("http://kbs:8080", "attacker in between"),
            ("http://0.0.0.0:8080", "attacker in between"),
            ("http://localhost.example.org", "attacker in between"),
        ],
    )
    def test_bad(self, url: str, message: str) -> None:
        with pytest.raises(ConfigError, match=message) as raised:
            KbsLink(url)
        assert "word" not in str(raised.value)

    def test_insecure_links_need_an_insecure_option(self) -> None:
        assert KbsLink("http://kbs", insecure_plain_http=True)
        ca = Path("ca.pem")
        with pytest.raises(ConfigError, match="TLS is off or not verified"):
            KbsLink("https://kbs", ca=ca, insecure_no_tls_verification=True)
        with pytest.raises(ConfigError, match="TLS is off or not verified"):
            KbsLink("http://localhost", ca=ca)


class TestToken:
    async def test_a_valid_token_is_reused(self, guest: RcarGuest) -> None:
        kbs = FakeKbs()
        async with session_with(kbs, guest) as session:
            first = await session.token()
            assert await session.token() is first
        assert kbs.paths == ["auth", "attest"]

    async def test_an_invalid_token_is_refused(self, guest: RcarGuest) -> None:
        for claims, message in (({"exp": 1}, "expired"), ({"nbf": 9_999_999_999}, "not valid yet")):
            kbs = answering(attest=httpx.Response(200, json={"token": jwt(claims)}))
            async with session_with(kbs, guest) as session:
                for _ in range(2):
                    with pytest.raises(AnswerInvalid, match=message):
                        await session.token()
            assert kbs.paths == ["auth", "attest"] * 2

    def test_claims_of_their_types_are_read(self) -> None:
        claims: dict[str, Any] = {"exp": 1.5, "iat": 1, "iss": None, "aud": ["a"], "other": [{}]}
        assert Token.parse(jwt(claims)).claims == claims

    def test_a_token_is_redacted(self) -> None:
        text = jwt({"a": "b"})
        shown = repr(Token.parse(text))
        for part in text.split("."):
            assert part not in shown


async def test_a_tampered_answer_is_what_is_sent(guest: RcarGuest) -> None:
    """The helper that changes answers works; other tests depend on it."""
    kbs = FakeKbs()

    def tamper(body: dict[str, Any]) -> None:
        body["runtime-data"]["nonce"] = "other"

    async with session_with(kbs, guest) as session:
        await attest(session, tamper)
    assert json.loads(kbs.asked[1].content)["runtime-data"]["nonce"] == "other"


def test_the_answer_of_upstream_for_a_missing_resource_is_explained() -> None:
    """Upstream's newer KBS answers 401 without detail; this project's KBS answers 404."""
    missing = KbsRefused("GET", 401, error_type="x/PluginInternalError", detail="Plugin error")
    assert "if there is no such resource" in str(missing)
    for status, variant in ((404, "PluginInternalError"), (401, "PolicyDeny")):
        other = KbsRefused("GET", status, error_type=f"x/{variant}", detail="Plugin error")
        assert "no such resource" not in str(other)
