"""Who may call the client API of a running broker (wire-client-api.md, "Who may call")."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
from pathlib import Path

import pytest

from tests.support.access import client_of, client_of_user, may_do_everything, may_wrap_only
from tests.support.broker import KID, running_broker
from tests.support.keyprovider_client import KeyProviderClient
from verdictd_py import daemon as app
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import loopback
from verdictd_py.simulator import SimulatedPlatform

NOBODY = 65534
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")


@pytest.fixture
def platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=app.utc_now())


class TestUnixSocket:
    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "api.sock"

    async def test_only_the_owner_of_the_socket_can_connect_and_has_all_rights(
        self, tmp_path: Path, platform: SimulatedPlatform, path: Path
    ) -> None:
        before = os.umask(0)
        unsafe = {"unsafe_writable_files": True}  # with this umask, every file of the test is
        try:
            async with (
                running_broker(
                    tmp_path, platform, client_api=f"unix:{path}", unsafe=unsafe
                ) as broker,
                client_of(broker) as client,
            ):
                assert stat.S_ISSOCK(path.stat().st_mode)
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                await may_do_everything(client)
                assert broker.client_api == f"unix:{path}"
        finally:
            assert os.umask(before) == 0

    async def test_an_unused_socket_is_replaced(
        self, tmp_path: Path, platform: SimulatedPlatform, path: Path
    ) -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        async with (
            running_broker(tmp_path, platform, client_api=f"unix:{path}") as broker,
            client_of(broker) as client,
        ):
            await may_do_everything(client)

    async def test_a_socket_in_use_is_not_replaced(
        self, tmp_path: Path, platform: SimulatedPlatform, path: Path
    ) -> None:
        async with (
            running_broker(tmp_path, platform, client_api=f"unix:{path}") as broker,
            client_of(broker) as client,
        ):
            with pytest.raises(ConfigError, match=r"another daemon does; stop it, or choose"):
                async with running_broker(tmp_path, platform, client_api=f"unix:{path}"):
                    pass
            await may_do_everything(client)

    @pytest.mark.parametrize(
        ("name", "cause"),
        [
            ("file", "exists and is not a socket"),
            ("directory", "exists and is not a socket"),
            ("link", "exists and is not a socket"),
            ("none/api.sock", "no such file or directory; choose another --client-api"),
            ("file/api.sock", "not a directory; choose another --client-api"),
            ("x" * 200, "too long; choose another --client-api"),
        ],
        ids=["file", "directory", "link", "no directory", "below a file", "too long"],
    )
    async def test_another_file_at_the_path_is_left_and_named(
        self,
        tmp_path: Path,
        platform: SimulatedPlatform,
        capfd: pytest.CaptureFixture[str],
        name: str,
        cause: str,
    ) -> None:
        (tmp_path / "file").write_text("mine")
        (tmp_path / "directory").mkdir()
        (tmp_path / "link").symlink_to("nowhere")
        path = tmp_path / name
        with pytest.raises(ConfigError, match=cause) as caught:
            async with running_broker(tmp_path, platform, client_api=f"unix:{path}"):
                pass
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert (tmp_path / "file").read_text() == "mine"
        assert (tmp_path / "link").is_symlink()
        assert capfd.readouterr() == ("", "")  # gRPC logs its own failures


class TestLoopback:
    async def test_the_daemons_user_has_all_rights(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        async with running_broker(tmp_path, platform) as broker, client_of(broker) as client:
            await may_do_everything(client)

    async def test_the_daemons_user_has_all_rights_over_ipv6(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        if not _has_ipv6():
            pytest.skip("this host has no ::1")
        async with (
            running_broker(tmp_path, platform, client_api="[::1]:0") as broker,
            client_of(broker) as client,
        ):
            assert broker.daemon.listener("client_api").address.host == "::1"
            await may_do_everything(client)

    @needs_root
    async def test_another_user_may_only_wrap(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        """defects.md 11: any client of the original's API can read every key."""
        async with (
            running_broker(tmp_path, platform) as broker,
            client_of_user(broker, NOBODY, tmp_path) as client,
        ):
            await may_wrap_only(client, f"uid {NOBODY}")
            (event,) = broker.events.named("request.failed")
            assert event["caller"] == f"uid {NOBODY}"
            assert event["status"] == "PERMISSION_DENIED"

    @needs_root
    async def test_insecure_loopback_gives_every_local_user_all_rights_and_is_recorded(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        async with (
            running_broker(tmp_path, platform, unsafe={"insecure_loopback": True}) as broker,
            client_of_user(broker, NOBODY, tmp_path) as client,
        ):
            await may_do_everything(client)
            flags = [event["flag"] for event in broker.events.named("unsafe.option")]
            assert "--insecure-loopback" in flags

    async def test_looking_up_the_caller_does_not_block_guests(
        self, tmp_path: Path, platform: SimulatedPlatform, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        table = tmp_path / "table"
        os.mkfifo(table)  # whoever reads it waits until somebody writes
        monkeypatch.setattr(loopback, "_query", lambda *queries: [None] * len(queries))
        monkeypatch.setattr(loopback, "_TABLES", (table,))
        monkeypatch.setattr(loopback, "ATTEMPTS", 1)
        async with running_broker(tmp_path, platform) as broker, client_of(broker) as client:
            call = asyncio.create_task(client.wrap(KID))
            async with broker.guest() as guest:
                assert (await guest.resource("Policy")).reveal()
            assert not call.done()
            await asyncio.to_thread(table.write_text, "header only\n")
            assert (await call)["kid"] == KID


class TestOpenAddress:
    @pytest.mark.parametrize("host", ["0.0.0.0", "[::]", "broker.example"])  # noqa: S104  # the point
    async def test_without_tls_it_does_not_start(
        self, tmp_path: Path, platform: SimulatedPlatform, host: str
    ) -> None:
        """defects.md 11."""
        with pytest.raises(ConfigError) as caught:
            async with running_broker(tmp_path, platform, client_api=f"{host}:0"):
                pass
        text = str(caught.value)
        assert text.startswith(f"--client-api {host}:0 can be reached from other hosts")
        assert "--client-api-cert" in text
        assert "--insecure-client-api" in text

    async def test_insecure_client_api_gives_every_client_all_rights_and_is_recorded(
        self, tmp_path: Path, platform: SimulatedPlatform
    ) -> None:
        options = {"insecure_client_api": True}
        async with (
            running_broker(tmp_path, platform, unsafe=options, client_api="0.0.0.0:0") as broker,
            KeyProviderClient.open(
                f"127.0.0.1:{broker.daemon.listener('client_api').address.port}"
            ) as client,
        ):
            await may_do_everything(client)
            flags = [event["flag"] for event in broker.events.named("unsafe.option")]
            assert "--insecure-client-api" in flags


def _has_ipv6() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
        return True
