"""Every mistake at start is one line that names the cause and the remedy (product.md)."""

from __future__ import annotations

import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.command import Ended, Run, run_all, run_here

FREE = ("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0")

CAUSES: dict[str, tuple[str, ...]] = {
    "listen in use": ("cannot listen on 127.0.0.1:", "the address is in use", "--listen"),
    "client API in use": ("cannot listen on 127.0.0.1:", "the address is in use", "--client-api"),
    "listen elsewhere": ("192.0.2.1:1", "this host has no such address", "--listen"),
    "listen on a name": ("'no.such.host.invalid' cannot be resolved", "--listen"),
    "listen on no address": ("--listen: 'nowhere' is not an address", "write host:port"),
    "listen on a path": ("--listen: 'unix:/x' is not served here", "write host:port"),
    "listen without brackets": ("--listen: ", "brackets"),
    "client API for all": ("--client-api 0.0.0.0:0 can be reached", "--client-api-cert"),
    "client API key": ("is not a PEM certificate", "correct --client-api-cert"),
    "client API files": ("needs all of --client-api-cert", "give the missing ones"),
    "client API path": ("no such file or directory", "choose another --client-api"),
    "data directory unreadable": ("cannot use", "ermission denied", "--data-dir"),
    "data directory is a file": ("is not a directory", "choose another --data-dir"),
    "data directory below a file": ("is not a directory", "choose another --data-dir"),
    "default data directory for a rehearsal": ("--unsafe-tdx-root-ca needs", "--data-dir"),
    "unknown verifier": ("nosuch", "tdx", "sgx"),
    "nullverifier": ("nullverifier", "--insecure-nullverifier"),
    "unknown option": ("--nosuch", "see verdictd-py --help"),
    "abbreviated option": ("--verif", "did you mean '--verifier'?", "verdictd-py --help"),
    "unknown command": ("frobnicate", "see verdictd-py --help"),
    "option without value": ("--listen", "see verdictd-py --help"),
    "attester": ("cannot get a TDX quote from", "not a TDX guest"),
    "tls": ("--tls: ", "openssl"),
    "number": ("--idle-timeout: ", "number"),
    "collateral missing": ("/none cannot be read: No such file", "name a file or a directory"),
    "collateral is not valid JSON": ("/garbage cannot be used", "fetch it again or remove it"),
    "root missing": ("/none: No such file", "--unsafe-tdx-root-ca"),
    "root is no certificate": ("/garbage contains no certificate", "--unsafe-tdx-root-ca"),
    "configuration missing": ("/none: No such file", "check --config"),
    "configuration is not valid TOML": ("/garbage is not valid TOML", "fix that line"),
    "configuration is unsafe": (
        "insecure_loopback in",
        "remove it from the file",
        "--insecure-loopback",
    ),
    "configuration has an unknown key": ("listn in", "remove it, or correct its name"),
    "unknown in the environment": ("VERDICTD_LISTN in the environment", "unset it"),
    "wrong in the environment": ("VERDICTD_LISTEN: 'nowhere' is not an address", "write host:port"),
}


AS_PROCESS = {
    "listen in use",
    "client API in use",
    "client API path",
    "data directory unreadable",
    "data directory is a file",
    "default data directory for a rehearsal",
    "unknown verifier",
    "nullverifier",
    "unknown option",
    "attester",
    "collateral missing",
    "root is no certificate",
    "configuration is not valid TOML",
}
"""Made as a user would; the others in this process, which is faster."""


def _runs(base: Path, taken: str) -> dict[str, Run]:
    """Return a command line for each mistake, in a directory with the files that it needs."""
    garbage = base / "garbage"
    garbage.write_text("neither = JSON nor = TOML nor a certificate {")
    (base / "unsafe.toml").write_text("insecure_loopback = true\n")
    (base / "typo.toml").write_text('listn = "127.0.0.1:0"\n')
    none, data = str(base / "none"), ("--data-dir", str(base / "data"))
    files = {name: f"--client-api-{name}={garbage}" for name in ("cert", "key", "ca", "roles")}
    runs = {
        "listen in use": Run(("--listen", taken, "--client-api", "127.0.0.1:0", *data)),
        "client API in use": Run(("--listen", "127.0.0.1:0", "--client-api", taken, *data)),
        "listen elsewhere": Run((*FREE, "--listen", "192.0.2.1:1", *data)),
        "listen on a name": Run((*FREE, "--listen", "no.such.host.invalid:1", *data)),
        "listen on no address": Run((*FREE, "--listen", "nowhere", *data)),
        "listen on a path": Run((*FREE, "--listen", "unix:/x", *data)),
        "listen without brackets": Run((*FREE, "--listen", "::1:5", *data)),
        "client API for all": Run((*FREE, "--client-api", "0.0.0.0:0", *data)),
        "client API key": Run((*FREE, *data, *files.values())),
        "client API files": Run((*FREE, *data, files["cert"])),
        "client API path": Run((*FREE, "--client-api", f"unix:{none}/x", *data)),
        "data directory is a file": Run((*FREE, "--data-dir", str(garbage))),
        "data directory below a file": Run((*FREE, "--data-dir", f"{garbage}/data")),
        "default data directory for a rehearsal": Run((*FREE, "--unsafe-tdx-root-ca", none)),
        "unknown verifier": Run((*FREE, *data, "--verifier", "nosuch")),
        "nullverifier": Run((*FREE, *data, "--verifier", "nullverifier")),
        "unknown option": Run((*FREE, *data, "--nosuch")),
        "abbreviated option": Run((*FREE, *data, "--verif", "tdx")),
        "unknown command": Run(("frobnicate",)),
        "option without value": Run(("--listen",)),
        "attester": Run((*FREE, *data, "--attester", "tdx")),
        "tls": Run((*FREE, *data, "--tls", "mbedtls")),
        "number": Run((*FREE, *data, "--idle-timeout", "soon")),
        "collateral missing": Run((*FREE, *data, "--collateral", none)),
        "collateral is not valid JSON": Run((*FREE, *data, "--collateral", str(garbage))),
        "root missing": Run((*FREE, *data, "--unsafe-tdx-root-ca", none)),
        "root is no certificate": Run((*FREE, *data, "--unsafe-tdx-root-ca", str(garbage))),
        "configuration missing": Run((*FREE, *data, "--config", none)),
        "configuration is not valid TOML": Run((*FREE, *data, "--config", str(garbage))),
        "configuration is unsafe": Run((*FREE, *data, "--config", str(base / "unsafe.toml"))),
        "configuration has an unknown key": Run((*FREE, *data, "--config", f"{base}/typo.toml")),
        "unknown in the environment": Run((*FREE, *data), environment={"VERDICTD_LISTN": "x"}),
        "wrong in the environment": Run(data, environment={"VERDICTD_LISTEN": "nowhere"}),
    }
    unreadable = _unreadable(base)
    if unreadable is not None:
        runs["data directory unreadable"] = unreadable
    return runs


def _unreadable(base: Path) -> Run | None:
    """Return a command that must not read its directory; root drops its capabilities for that."""
    directory = base / "unreadable"
    directory.mkdir(mode=0o000)
    arguments = (*FREE, "--data-dir", str(directory))
    if os.geteuid() != 0:
        return Run(arguments)
    if shutil.which("setpriv") is None:
        return None
    os.chown(directory, 65534, 65534)
    return Run(arguments, wrapper=("setpriv", "--bounding-set=-dac_override,-dac_read_search"))


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Run]]:
    base = tmp_path_factory.mktemp("mistakes")
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield _runs(base, f"127.0.0.1:{server.getsockname()[1]}")
    assert not (base / "none").exists()


@pytest.fixture(scope="module")
def ended(runs: dict[str, Run]) -> dict[str, Ended]:
    """Run every mistake of `AS_PROCESS` at once."""
    return run_all({name: one for name, one in runs.items() if name in AS_PROCESS})


@pytest.mark.parametrize("mistake", CAUSES)
def test_a_mistake_is_one_line_with_cause_and_remedy(
    runs: dict[str, Run],
    ended: dict[str, Ended],
    mistake: str,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if mistake not in runs:
        pytest.skip("setpriv, which makes root an ordinary reader, is not installed")
    one = runs[mistake]
    for name, text in one.environment.items():
        monkeypatch.setenv(name, text)
    done = ended[mistake] if mistake in ended else run_here(one.arguments, capfdbinary)
    line = done.complaint(2)
    for part in CAUSES[mistake]:
        assert part in line


def test_every_mistake_has_a_cause_to_check(runs: dict[str, Run]) -> None:
    assert runs.keys() <= CAUSES.keys()
    assert CAUSES.keys() >= AS_PROCESS
