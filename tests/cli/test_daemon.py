"""The daemon as its users start, stop and reload it (product.md)."""

from __future__ import annotations

import gc
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support.command import port_of, running_daemon
from tests.support.events import RecordedEvents
from verdictd_py import __version__, config
from verdictd_py import daemon as app
from verdictd_py.cli.daemon import OPTIONS
from verdictd_py.cli.main import main
from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.process import MIN_ADDRESS_SPACE
from verdictd_py.domain import addresses
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import sockets

FREE = ("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0")


def _connects(host: str, port: int) -> bool:
    with socket.create_connection((host, port), timeout=60):
        return True


def test_the_guides_command_line_runs_reloads_and_stops(tmp_path: Path) -> None:
    """The guide's command line, except for program name and ports (product.md, journey 1)."""
    data = tmp_path / "data"
    (data / "keys").mkdir(parents=True)
    (data / "keys/short").write_bytes(b"31 bytes, a wrong size of a key")
    words = (
        "--listen 0.0.0.0:0 --verifier tdx --attester nullattester --client-api 127.0.0.1:0 "
        "--mutual"
    )
    with running_daemon(*words.split(), "--data-dir", str(data)) as daemon:
        started = daemon.wait_for("daemon.started")
        assert started["version"] == __version__
        assert started["verifiers"] == ["tdx"]
        assert started["attester"] == "nullattester"
        assert started["data_dir"] == str(data)
        assert started["listen"].startswith("0.0.0.0:")
        assert _connects("127.0.0.1", port_of(started["listen"]))
        assert _connects("127.0.0.1", port_of(started["client_api"]))
        reasons = [e["reason"] for e in daemon.seen if e["event"] == "warning.storage"]
        assert any("key short has 31 bytes" in reason for reason in reasons)
        assert [e for e in daemon.seen if e["event"] == "warning.unpinned"]

        policy = data / "opa/tdxPolicy.rego"
        kept = policy.read_bytes()
        policy.write_text("package policy\nallow {{{ this is no policy")
        daemon.send(signal.SIGHUP)
        warned = daemon.wait_for("warning.policy")
        assert (warned["tee"], warned["level"]) == ("tdx", "warning")
        assert warned["reason"]
        policy.write_bytes(kept)
        daemon.send(signal.SIGHUP)
        daemon.wait_for("policy.loaded", tee="tdx")

        status, stdout = daemon.end(signal.SIGTERM)
        assert (status, stdout) == (0, "")
        assert "daemon.stopped" in [event["event"] for event in daemon.seen]


def test_the_first_start_reports_what_it_waits_for_and_later_ones_do_not_wait(
    tmp_path: Path,
) -> None:
    words = (*FREE, "--verifier", "tdx", "--data-dir", str(tmp_path / "data"))
    cache = str(tmp_path / "cache")
    with running_daemon(*words, CACHE_DIRECTORY=cache) as daemon:
        daemon.wait_for("daemon.started")
        assert [event["reason"] for event in daemon.seen if "compiling" in event["event"]] == [
            "compiling the policy engine for this machine, once (some seconds)"
        ]
        assert daemon.end(signal.SIGTERM) == (0, "")
    with running_daemon(*words, CACHE_DIRECTORY=cache) as daemon:
        daemon.wait_for("daemon.started")
        assert not [event for event in daemon.seen if "compiling" in event["event"]]
        assert daemon.end(signal.SIGTERM) == (0, "")


def test_the_daemon_starts_in_four_gigabytes_of_addresses(tmp_path: Path) -> None:
    """As under `ulimit -v 4000000`, with a policy engine that must be compiled first."""
    words = (*FREE, "--verifier", "tdx", "--data-dir", str(tmp_path / "data"))
    limit = ("prlimit", f"--as={4_000_000 * 1024}")
    cache = str(tmp_path / "cache")
    with running_daemon(*words, wrapper=limit, CACHE_DIRECTORY=cache) as daemon:
        daemon.wait_for("daemon.started")
        assert daemon.end(signal.SIGTERM) == (0, "")


@pytest.mark.parametrize("kib", [MIN_ADDRESS_SPACE // 1024 - 1, 700_000, 300_000])
def test_a_limit_of_addresses_that_is_too_low_ends_the_daemon_with_one_line(
    kib: int, tmp_path: Path
) -> None:
    done = subprocess.run(
        [
            *("prlimit", f"--as={kib * 1024}"),
            *(sys.executable, "-m", "verdictd_py.cli.main"),
            *FREE,
            *("--verifier", "tdx", "--data-dir", str(tmp_path / "data")),
        ],
        capture_output=True,
        check=False,
        text=True,
        timeout=30,
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        f"verdictd-py: the limit of addresses (ulimit -v) is {kib} KiB, and the daemon needs "
        f"{MIN_ADDRESS_SPACE // 1024} KiB; raise it, or remove it with 'ulimit -v unlimited'\n"
    )


def test_the_daemon_starts_under_the_lowest_limit_of_addresses(tmp_path: Path) -> None:
    """With a policy engine that must be compiled first."""
    words = (*FREE, "--verifier", "tdx", "--data-dir", str(tmp_path / "data"))
    limit = ("prlimit", f"--as={MIN_ADDRESS_SPACE}")
    cache = str(tmp_path / "cache")
    with running_daemon(*words, wrapper=limit, CACHE_DIRECTORY=cache) as daemon:
        daemon.wait_for("policy.loaded", tee="tdx")
        assert daemon.end(signal.SIGTERM) == (0, "")


def test_the_short_command_line_runs(tmp_path: Path) -> None:
    """`verdictd-py --listen 0.0.0.0:20002 --verifier tdx`, the client API by default."""
    _skip_unless_free()
    words = ("--listen", "0.0.0.0:0", "--verifier", "tdx")
    with running_daemon(*words, VERDICTD_DATA_DIR=str(tmp_path)) as daemon:
        started = daemon.wait_for("daemon.started")
        assert started["client_api"] in {"[::1]:60000", "127.0.0.1:60000"}
        assert daemon.end(signal.SIGINT) == (0, "")


def _skip_unless_free() -> None:
    for host in ("::1", "127.0.0.1"):
        try:
            _connects(host, 60000)
        except OSError:
            continue
        pytest.skip("something else listens on port 60000")


class TestDefaultClientApi:
    """The default is `[::1]:60000`, and 127.0.0.1 only if the host has no ::1."""

    @pytest.fixture
    def options(self, tmp_path: Path) -> dict[str, Any]:
        return {"listen": "127.0.0.1:0", "data_dir": tmp_path / "data"}

    async def test_the_address_is_ipv4_on_a_host_without_ipv6(
        self, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(addresses, "CLIENT_API_WITHOUT_IPV6", "127.0.0.1:0")
        monkeypatch.setattr(sockets, "bind", _without_ipv6(sockets.bind))
        daemon = await app.build_daemon(Settings(**options), Unsafe(), RecordedEvents()).start()
        try:
            assert daemon.listener("client_api").address.host == "127.0.0.1"
        finally:
            await daemon.stop()
        with pytest.raises(ConfigError, match=r"\[::1\]:0: this host has no such address"):
            await app.build_daemon(
                Settings(**options, client_api="[::1]:0"), Unsafe(), RecordedEvents()
            ).start()

    async def test_the_address_is_not_ipv4_if_another_program_uses_the_ipv6_address(
        self, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        try:
            server = socket.create_server(("::1", 0), family=socket.AF_INET6)
        except OSError:
            pytest.skip("this host has no ::1")
        with server:
            taken = f"[::1]:{server.getsockname()[1]}"
            monkeypatch.setattr(addresses, "CLIENT_API_WITHOUT_IPV6", "127.0.0.1:0")
            settings = Settings.model_construct(**options, client_api=taken)
            settings.model_fields_set.discard("client_api")  # as if it were the default
            with pytest.raises(ConfigError, match="the address is in use; stop the program"):
                await app.build_daemon(settings, Unsafe(), RecordedEvents()).start()


def _without_ipv6(bind: Any) -> Any:
    """Return the host's `bind`, changed as if no interface had ::1."""

    def bound(address: config.Address, *, option: str) -> socket.socket:
        if ":" in address.host:
            error = OSError(99, os.strerror(99))
            raise sockets.explain_bind_failure(str(address), error, option=option)
        found = bind(address, option=option)
        assert isinstance(found, socket.socket)
        return found

    return bound


async def test_an_address_in_use_releases_the_other_addresses(tmp_path: Path) -> None:
    """All addresses are bound before any of them accepts, and all are released."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        listen = f"127.0.0.1:{probe.getsockname()[1]}"
        probe.close()
        settings = Settings(
            listen=listen,
            client_api=f"127.0.0.1:{server.getsockname()[1]}",
            data_dir=tmp_path / "data",
        )
        daemon = app.build_daemon(settings, Unsafe(), RecordedEvents())
        with pytest.raises(ConfigError, match="the address is in use; stop the program"):
            await daemon.start()
        sockets.bind(config.Address.parse(listen), option="--listen").close()


def test_unsafe_options_are_reported_at_start(tmp_path: Path) -> None:
    chosen = ("--insecure-loopback", "--insecure-nullverifier", "--insecure-client-api")
    words = (*FREE, "--verifier", "nullverifier", "--data-dir", str(tmp_path), *chosen)
    with running_daemon(*words) as daemon:
        daemon.wait_for("daemon.started")
        flags = [e["flag"] for e in daemon.seen if e["event"] == "unsafe.option"]
        assert set(flags) == set(chosen)
        assert {e["level"] for e in daemon.seen if e["event"] == "unsafe.option"} == {"warning"}
        assert daemon.end(signal.SIGTERM) == (0, "")


def test_help_loads_neither_the_broker_nor_the_settings() -> None:
    """They take most of a second."""
    program = (
        "import sys\n"
        "from verdictd_py.cli.main import main\n"
        "try:\n"
        "    main(['--help'])\n"
        "except SystemExit:\n"
        "    print(sorted({'grpc', 'pydantic', 'cryptography'} & sys.modules.keys()))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.splitlines()[-1] == "[]"


def test_the_start_loads_no_library_that_is_needed_later_or_never() -> None:
    """httpx is loaded when a service is queried, joserfc when a guest sends a token, jinja2 with
    `--console`, and prometheus_client with `--status`.
    """
    program = (
        "import sys\n"
        "import verdictd_py.cli.daemon, verdictd_py.daemon\n"
        "late = {'httpx', 'jinja2', 'joserfc', 'prometheus_client'}\n"
        "print(sorted(late & {name.partition('.')[0] for name in sys.modules}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[]"


def test_a_stop_waits_for_modules_that_are_imported_meanwhile() -> None:
    """One daemon in 25 that was stopped at once crashed, when its interpreter ended meanwhile."""
    program = (
        "import threading\n"
        "from verdictd_py.daemon.process import favour_event_loop\n"
        "began = []\n"
        "threading.Thread.start = lambda thread: began.append(thread)\n"
        "favour_event_loop()\n"
        "print([(thread.name, thread.daemon) for thread in began])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "[('import', False)]"


def test_no_other_package_changes_how_settings_are_read() -> None:
    """pydantic would search all installed packages for plug-ins, and load them."""
    program = (
        "import verdictd_py.config\n"
        "from pydantic.plugin import _loader\n"
        "print(_loader._plugins, *_loader.get_plugins())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=120
    )
    assert done.stdout.strip() == "None"


def test_a_command_leaves_the_collector_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    """The start turns it off; a caller in the same process would lose memory and descriptors."""
    with pytest.raises(SystemExit):
        main(["--workers", "0"])
    assert "workers" in capsys.readouterr().err
    assert gc.isenabled()


@pytest.mark.parametrize(
    "option", [names[-1] for names, placeholder, _ in OPTIONS if "[," in placeholder]
)
def test_a_list_that_is_given_twice_is_refused(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Otherwise only the last one would count, and a sink would be lost unnoticed."""
    with pytest.raises(SystemExit) as ended:
        main([option, "tdx", option, "sgx"])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"argument {option}: it is given twice; separate the values by commas" in line
