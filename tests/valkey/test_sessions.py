"""Sessions in a real Valkey server that fails, restarts, requires TLS or is tampered with."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme

from tests.conformance.sessions import END, NOW, name
from tests.support.clock import elapse_until
from tests.support.secretfiles import write_secret
from tests.support.valkey import ValkeyServer, needs_valkey, running_valkey
from verdictd_py.engineurls import EngineUrl
from verdictd_py.errors import ConfigError, StorageError
from verdictd_py.valkey.sessions import MAX_CONNECTIONS, ValkeySessionStore

pytestmark = needs_valkey
PASSWORD = "correct-horse-7f21"
TWO_SECONDS = timedelta(seconds=2)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ValkeyServer]:
    with running_valkey(tmp_path / "valkey") as running:
        yield running


@asynccontextmanager
async def opened(url: str, seconds: float = 60) -> AsyncIterator[ValkeySessionStore]:
    store = ValkeySessionStore.open(EngineUrl.parse(url), call_seconds=seconds)
    try:
        yield store
    finally:
        await store.close()


async def test_two_brokers_share_sessions_and_take_a_challenge_once(server: ValkeyServer) -> None:
    async with opened(server.url) as one, opened(server.url) as other:
        for number in range(20):
            await one.add_challenge(name(number), "c", now=NOW, expires=END)
        taken = await asyncio.gather(
            *(s.take_challenge(name(n), now=NOW) for n in range(20) for s in (one, other))
        )
        assert taken.count("c") == 20
        await other.add_token(name(1), "token", now=NOW, expires=END)
        assert await one.token(name(1), now=NOW) == "token"


async def test_calls_continue_after_a_restart_without_a_failed_call(server: ValkeyServer) -> None:
    async with opened(server.url) as store:
        await store.add_token(name(1), "token", now=NOW, expires=END)
        server.stop()
        with pytest.raises(StorageError, match=r"valkey://127\.0\.0\.1"):
            await store.token(name(1), now=NOW)
        assert await store.fault()
        server.start()
        assert await store.fault() == ""
        await asyncio.gather(
            *(store.add_challenge(name(n), "c", now=NOW, expires=END) for n in range(40))
        )
        server.stop()
        server.start()  # each pooled connection is broken now
        assert await store.token(name(1), now=NOW) is None
        await store.add_token(name(1), "token", now=NOW, expires=END)
        assert await store.token(name(1), now=NOW) == "token"


async def test_a_taken_challenge_that_a_restart_restores_is_not_taken_again(
    tmp_path: Path,
) -> None:
    """The server's file is older than its memory, as after a crash; so is a promoted replica."""
    with running_valkey(tmp_path / "valkey", "--dbfilename", "old.rdb") as server:
        async with opened(server.url) as store:
            await store.add_challenge(name(1), "c", now=NOW, expires=END)
            await store.add_token(name(2), "token", now=NOW, expires=END)
            server.command("SAVE")
            assert await store.take_challenge(name(1), now=NOW) == "c"
            server.stop(kill=True)
            server.start()
            assert "1" in server.command("HLEN", "verdictd-py:{sessions}:challenge:content")
            assert await store.token(name(2), now=NOW) == "token"
            assert await store.take_challenge(name(1), now=NOW) is None


@pytest.mark.parametrize("part", ["content", "expiry", "size"])
@pytest.mark.parametrize("kind", ["challenge", "token", "claims"])
async def test_what_the_server_evicted_in_part_is_discarded(
    server: ValkeyServer, kind: str, part: str
) -> None:
    """`maxmemory-policy allkeys-lru` evicts one key of three."""
    async with opened(server.url) as store:
        for number in range(3):
            await store.add_challenge(name(number), "c", now=NOW, expires=END)
            await store.add_token(name(number), "t", now=NOW, expires=END)
            await store.add_claims(name(number), "k", now=NOW, expires=END)
        server.command("DEL", f"verdictd-py:{{sessions}}:{kind}:{part}")
        await store.add_challenge(name(5), "c", now=NOW, expires=END)
        await store.add_token(name(5), "t", now=NOW, expires=END)
        await store.add_claims(name(5), "k", now=NOW, expires=END)
        assert server.command("HLEN", f"verdictd-py:{{sessions}}:{kind}:content") == ":1\r\n"
        size = server.command("GET", f"verdictd-py:{{sessions}}:{kind}:size")
        assert size.split()[1] == ("42" if kind == "challenge" else "1")  # with the run id
        assert await store.take_challenge(name(5), now=NOW) == "c"
        assert await store.token(name(5), now=NOW) == "t"
        assert await store.claims(name(5), now=NOW) == "k"


async def test_the_server_removes_everything_when_no_broker_is_left(server: ValkeyServer) -> None:
    async with opened(server.url) as store:
        await store.add_challenge(name(1), "c", now=NOW, expires=END)
        await store.add_token(name(1), "t", now=NOW, expires=END)
        await store.add_claims(name(1), "k", now=NOW, expires=END)
    for kind in ("challenge", "token", "claims"):
        for part in ("content", "expiry", "size"):
            answer = server.command("TTL", f"verdictd-py:{{sessions}}:{kind}:{part}")
            assert 300 < int(answer.strip()[1:]) <= 420


async def test_a_cancelled_call_never_leaves_its_answer_to_another(server: ValkeyServer) -> None:
    async with opened(server.url) as store:
        for number in range(30):
            await store.add_token(name(number), f"token {number}", now=NOW, expires=END)
        for step in range(60):
            calls = [
                asyncio.ensure_future(store.token(name(number), now=NOW)) for number in range(30)
            ]
            for _ in range(step % 15):
                await asyncio.sleep(0)
            for call in calls[::2]:
                call.cancel()
            results = await asyncio.gather(*calls, return_exceptions=True)
            for number, result in enumerate(results):
                if not isinstance(result, asyncio.CancelledError):
                    assert result == f"token {number}"
        tokens = [await store.token(name(n), now=NOW) for n in range(2 * MAX_CONNECTIONS)]
        assert tokens[:30] == [f"token {number}" for number in range(30)]


@contextmanager
def silent() -> Iterator[str]:
    """Accept connections and never answer."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield f"valkey://127.0.0.1:{listening.getsockname()[1]}"


async def test_a_server_that_does_not_answer_is_reported_in_time() -> None:
    """More calls than connections wait: the time limit covers the wait for a connection."""
    with silent() as url:
        async with opened(url, seconds=10) as store:
            calls = [
                asyncio.ensure_future(store.token(name(n), now=NOW))
                for n in range(3 * MAX_CONNECTIONS)
            ]
            assert await elapse_until(lambda: all(call.done() for call in calls)) <= 11
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(result) for result in results} == {StorageError}
    assert all("the sessions cannot be used" in str(result) for result in results)


async def test_a_password_is_read_again_for_each_connection(tmp_path: Path) -> None:
    file = write_secret(tmp_path / "password", "wrong\n")
    with running_valkey(tmp_path / "valkey", "--requirepass", PASSWORD) as server:
        async with opened(f"{server.url}?password_file={file}") as store:
            with pytest.raises(StorageError, match=r"(?i)password|AUTH") as raised:
                await store.token(name(1), now=NOW)
            assert "wrong\n" not in str(raised.value)
            file.write_text(PASSWORD + "\n")
            assert await store.token(name(1), now=NOW) is None
            assert PASSWORD not in repr(store._client) + repr(store)
            file.unlink()
            server_restarted(server)
            with pytest.raises(StorageError, match="cannot read the password"):
                await store.token(name(1), now=NOW)
            write_secret(file, PASSWORD)
            assert await store.token(name(1), now=NOW) is None


async def test_a_password_is_read_outside_the_event_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that does not answer must not stop other guests."""
    threads, read = [], EngineUrl.password

    def recorded(url: EngineUrl) -> str | None:
        threads.append(threading.current_thread())
        return read(url)

    monkeypatch.setattr(EngineUrl, "password", recorded)
    file = write_secret(tmp_path / "password", PASSWORD)
    with running_valkey(tmp_path / "valkey", "--requirepass", PASSWORD) as server:
        async with opened(f"{server.url}?password_file={file}") as store:
            assert await store.token(name(1), now=NOW) is None
    assert threads
    assert threading.current_thread() not in threads


def server_restarted(server: ValkeyServer) -> None:
    server.stop()
    server.start()


async def test_tls_verifies_the_certificate_and_its_name(tmp_path: Path) -> None:
    authority, other = trustme.CA(), trustme.CA()
    good, wrong = authority.issue_cert("127.0.0.1"), authority.issue_cert("elsewhere.example")
    for path, certificates in (("good", good), ("wrong", wrong)):
        certificates.private_key_and_cert_chain_pem.write_to_path(tmp_path / f"{path}.pem")
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    other.cert_pem.write_to_path(tmp_path / "other.pem")
    for certificate, ca, accepted in (
        ("good", "ca", True),
        ("good", "other", False),
        ("wrong", "ca", False),
    ):
        with free_port() as port:
            pass
        options = ("--port", "0", "--tls-port", str(port), "--tls-auth-clients", "no")
        files = ("--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file")
        values = (f"{certificate}.pem", f"{certificate}.pem", "ca.pem")
        tls = [part for pair in zip(files, values, strict=True) for part in pair]
        tls = [str(tmp_path / part) if part.endswith(".pem") else part for part in tls]
        with running_valkey(tmp_path / f"{certificate}-{ca}", *options, *tls):
            async with opened(f"valkeys://127.0.0.1:{port}?ca={tmp_path / ca}.pem") as store:
                if accepted:
                    assert await store.token(name(1), now=NOW) is None
                else:
                    with pytest.raises(StorageError, match=r"(?i)certificate"):
                        await store.token(name(1), now=NOW)


@contextmanager
def free_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


async def test_a_missing_ca_is_reported_at_start(tmp_path: Path) -> None:
    url = EngineUrl.parse(f"valkeys://127.0.0.1:1?ca={tmp_path / 'none.pem'}")
    with pytest.raises(ConfigError, match="cannot use the TLS files"):
        ValkeySessionStore.open(url)


async def test_a_full_server_refuses_and_says_why(server: ValkeyServer) -> None:
    server.command("CONFIG", "SET", "maxmemory", "1")
    async with opened(server.url) as store:
        with pytest.raises(StorageError, match=r"OOM|maxmemory"):
            await store.add_token(name(1), "t", now=NOW, expires=END)


async def test_nothing_of_a_later_time_is_needed(server: ValkeyServer) -> None:
    """The broker's clock decides about expiry; the server's clock may be wrong by days."""
    past = datetime(2020, 1, 1, tzinfo=UTC)
    async with opened(server.url) as store:
        await store.add_challenge(name(1), "c", now=past, expires=past + TWO_SECONDS)
        assert await store.take_challenge(name(1), now=past) == "c"


async def test_calls_after_close_fail(server: ValkeyServer) -> None:
    async with opened(server.url) as store:
        await store.add_token(name(1), "t", now=NOW, expires=END)
    with pytest.raises(StorageError, match="closed"):
        await store.token(name(1), now=NOW)


USER_RIGHTS = (
    *("~verdictd-py:*", "+@read", "+@write", "+eval", "+evalsha"),
    *("+script|load", "+info", "+ping", "+select"),
)
"""As in docs/scale.md."""


async def test_the_documented_rights_of_a_user_are_enough(
    server: ValkeyServer, tmp_path: Path
) -> None:
    server.command("ACL", "SETUSER", "kbs", "on", f">{PASSWORD}", *USER_RIGHTS)
    write_secret(tmp_path / "password", PASSWORD)
    url = f"valkey://kbs@127.0.0.1:{server.port}/1?password_file={tmp_path}/password"
    async with opened(url) as store:
        await store.add_challenge(name(1), "c", now=NOW, expires=END)
        assert await store.take_challenge(name(1), now=NOW) == "c"
        await store.add_claims(name(1), "k", now=NOW, expires=END)
        assert await store.claims(name(1), now=NOW) == "k"
        assert await store.fault() == ""
    assert " ".join(USER_RIGHTS) in Path("docs/scale.md").read_text()


async def test_a_unix_socket(server: ValkeyServer) -> None:
    async with opened(f"valkey://{server.socket}") as store:
        await store.add_token(name(1), "t", now=NOW, expires=END)
        assert await store.token(name(1), now=NOW) == "t"
