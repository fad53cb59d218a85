"""The first errors that a newcomer meets: each is made for real, and its answer has the remedy.

Each answer is one line on standard error. The page for trouble quotes the part of it that one
searches for. With FIRST_ERRORS_TABLE=FILE, the commands and their answers are written as a table.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import trustme

from tests.support.command import environment, running_daemon
from verdictd_py import daemon as app
from verdictd_py.guest.attesters import COLLATERAL_FILE, simulated_platform

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "troubleshooting.md"
VERDICT, VERDICTD = "verdict-py", "verdictd-py"
MODULES = {VERDICT: "verdictd_py.cli.verdict", VERDICTD: "verdictd_py.cli.main"}
API = "-c {api}"
GUEST = "verdictd-py guest --platform {base}/platform"
FREE = "--listen 127.0.0.1:0 --client-api 127.0.0.1:0"


@dataclass(frozen=True)
class Mistake:
    """A command with a mistake.

    Attributes:
        command: with names of `_places` in braces; blanks separate words.
        status: exit status.
        said: parts of the answer: the cause and the remedy.
        quoted: what `docs/troubleshooting.md` has in backquotes.
        other_user: whether another user than root calls.
    """

    command: str
    status: int
    said: tuple[str, ...]
    quoted: str
    other_user: bool = False


MISTAKES = {
    "broker down": Mistake(
        "verdict-py -c {unused} status",
        3,
        ("cannot be reached: nothing listens there", "start the broker, or correct -c"),
        "nothing listens there",
    ),
    "wrong host": Mistake(
        "verdict-py -c brokr.invalid:60000 status",
        3,
        ("there is no host 'brokr.invalid'", "correct -c"),
        "there is no host",
    ),
    "no port": Mistake(
        "verdict-py -c 127.0.0.1 status",
        2,
        ("--client-api '127.0.0.1' is not an address", "write host:port"),
        "is not an address",
    ),
    "port of the attestation listener": Mistake(
        "verdict-py -c {listen} status",
        3,
        ("is a broker's attestation listener (--listen), not a client API; give -c the address",),
        "not a client API",
    ),
    "port of the HTTP listener": Mistake(
        "verdict-py -c {kbs} status",
        3,
        ("is an HTTP server, not a client API", "give -c the address"),
        "not a client API",
    ),
    "TLS required": Mistake(
        "verdict-py -c {tls} status",
        3,
        ("requires TLS: add --tls-ca, --tls-cert and --tls-key",),
        "requires TLS",
    ),
    "another CA": Mistake(
        "verdict-py -c {tls} --tls-ca {base}/other.pem --tls-cert {base}/client.pem"
        " --tls-key {base}/client.key status",
        3,
        ("a certificate that this CA did not issue", "correct --tls-ca"),
        "a certificate that this CA did not issue",
    ),
    "no rights": Mistake(
        "verdict-py -c {api} status",
        1,
        ("has no right to manage", "call as the daemon's user"),
        "has no right to manage",
        other_user=True,
    ),
    "unreadable key": Mistake(
        "verdictd-py admin-token --key {base}/secret.pem",
        2,
        ("cannot read {base}/secret.pem: Permission denied", "let this user read it"),
        "Permission denied",
        other_user=True,
    ),
    "misspelled command": Mistake(
        "verdict-py -c {api} stauts", 2, ("did you mean 'status'?",), "did you mean"
    ),
    "plural and order": Mistake(
        "verdict-py -c {api} list keys", 2, ("did you mean 'key list'?",), "did you mean"
    ),
    "misspelled option": Mistake(
        "verdictd-py --lisen 127.0.0.1:0", 2, ("did you mean '--listen'?",), "did you mean"
    ),
    "command of the other program": Mistake(
        "verdictd-py status",
        2,
        ("is a command of the other program: verdict-py status",),
        "is a command of the other program",
    ),
    "misspelled key": Mistake(
        "verdict-py -c {api} key describe my-kye",
        1,
        ("there is no key my-kye; did you mean my-key?",),
        "did you mean",
    ),
    "file missing": Mistake(
        "verdict-py -c {api} policy set tdxPolicy.rego {base}/none.rego",
        2,
        ("cannot read {base}/none.rego: No such file or directory; check its name",),
        "No such file or directory",
    ),
    "wrong policy": Mistake(
        "verdict-py -c {api} policy set tdxPolicy.rego {base}/broken.rego",
        1,
        ("the policy cannot be compiled: line 4",),
        "the policy cannot be compiled",
    ),
    "port in use": Mistake(
        "verdictd-py --listen {listen} --client-api 127.0.0.1:0 --data-dir {base}/new",
        2,
        ("cannot listen on {listen}: the address is in use", "choose another --listen"),
        "cannot listen on",
    ),
    "data directory for everybody": Mistake(
        f"verdictd-py {FREE} --data-dir {{base}}/open",
        2,
        ("it can be changed by other users (mode 0777); run 'chmod go-w {base}/open'",),
        "it can be changed by other users",
    ),
    "collateral missing": Mistake(
        f"verdictd-py {FREE} --data-dir {{base}}/new --collateral {{base}}/none.json",
        2,
        ("{base}/none.json cannot be read: No such file or directory", "name a file or a dir"),
        "cannot be read: No such file or directory",
    ),
    "collateral service down": Mistake(
        "verdictd-py collateral fetch --fmspc 00a067110000 --output {base}/out"
        " --collateral-url http://{unused}",
        2,
        ("nothing listens there; correct --collateral-url",),
        "correct --collateral-url",
    ),
    "clock wrong": Mistake(
        "verdictd-py collateral verify {base}/platform/collateral.json --at 2020-01-01T00:00:00Z"
        " --root-ca {base}/platform/root-ca.pem",
        1,
        ("but this host's clock shows 2020-01-01T00:00:00+00:00; check this host's clock",),
        "check this host's clock",
    ),
    "empty directory": Mistake(
        "verdictd-py policy test {root}/policies/tdxPolicy.rego --coverage {base}/empty",
        2,
        ("has no files *.json", "record claims"),
        "has no files *.json",
    ),
    "guest without an address": Mistake(
        f"{GUEST} policy", 2, ("--connect is missing: write host:port",), "--connect is missing"
    ),
    "guest, broker down": Mistake(
        f"{GUEST} --connect {{unused}} policy",
        3,
        ("nothing listens there; start the broker, or correct --connect",),
        "nothing listens there",
    ),
    "guest, other protocol": Mistake(
        f"{GUEST} --connect {{kbs}} policy",
        3,
        ("is an HTTP server, not an attestation listener; add --protocol rcar",),
        "not an attestation listener",
    ),
    "guest, TLS mismatch": Mistake(
        f"{GUEST} --protocol rcar --connect https://{{kbs}} policy",
        3,
        ("does not use TLS: write http:// in --connect",),
        "does not use TLS",
    ),
    "guest, simulated": Mistake(
        f"{GUEST} --connect {{listen}} policy",
        1,
        ("refused: quote-invalid; ask the operator about ",),
        "quote-invalid",
    ),
    "key provider, other port": Mistake(
        "verdictd-py keyprovider --check {base}/ocicrypt.conf",
        3,
        ("is an HTTP server, not a key provider", 'correct "grpc"'),
        "not a key provider",
    ),
}


@dataclass(frozen=True)
class Answer:
    """What a command answered."""

    status: int
    stdout: str
    stderr: str


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """Start two brokers, one with TLS, and make the files of the mistakes."""
    base = tmp_path_factory.mktemp("first")
    base.chmod(0o755)  # for another user
    ca = trustme.CA()
    server, client = ca.issue_cert("127.0.0.1"), ca.issue_cert(common_name="ops")
    ca.cert_pem.write_to_path(str(base / "ca.pem"))
    trustme.CA().cert_pem.write_to_path(str(base / "other.pem"))
    for name, made in (("server", server), ("client", client)):
        made.cert_chain_pems[0].write_to_path(str(base / f"{name}.pem"))
        made.private_key_pem.write_to_path(str(base / f"{name}.key"))
        (base / f"{name}.key").chmod(0o600)
    (base / "roles.toml").write_text('[roles]\nops = "operator"\n')
    (base / "broken.rego").write_text("package policy\n\ndefault allow = \n")
    (base / "secret.pem").touch(mode=0o600)
    (base / "empty").mkdir()
    (base / "open").mkdir()
    (base / "open").chmod(0o777)
    for name in ("data", "tls"):
        (base / name / "keys").mkdir(mode=0o700, parents=True)
        (base / name / "keys" / "my-key").write_bytes(bytes(32))
    simulated_platform(base / "platform", now=app.utc_now())
    assert (base / "platform" / COLLATERAL_FILE).exists()
    tls = [f"--client-api-{name}={base}/{file}" for name, file in TLS_FILES.items()]
    plain = (*FREE.split(), "--kbs-http", "127.0.0.1:0", "--data-dir", str(base / "data"))
    secured = (*FREE.split(), *tls, "--data-dir", str(base / "tls"))
    with (
        socket.socket() as unused,
        running_daemon(*plain) as broker,
        running_daemon(*secured) as other,
    ):
        unused.bind(("127.0.0.1", 0))
        started = broker.wait_for("daemon.started")
        found = {
            "api": str(started["client_api"]),
            "listen": str(started["listen"]),
            "kbs": str(started["kbs_http"]).rpartition("/")[2],
            "tls": str(other.wait_for("daemon.started")["client_api"]),
            "unused": f"127.0.0.1:{unused.getsockname()[1]}",
            "base": str(base),
            "root": str(ROOT),
        }
        conf = f'{{"key-providers":{{"attestation-agent":{{"grpc":"{found["kbs"]}"}}}}}}'
        (base / "ocicrypt.conf").write_text(conf)
        yield found
        for daemon in (broker, other):
            daemon.end(signal.SIGTERM)


TLS_FILES = {"cert": "server.pem", "key": "server.key", "ca": "ca.pem", "roles": "roles.toml"}


def answer(mistake: Mistake, places: dict[str, str]) -> Answer:
    program, *words = mistake.command.format(**places).split()
    wrapper: tuple[str, ...] = ()
    if mistake.other_user:
        if os.geteuid() != 0 or shutil.which("setpriv") is None:
            pytest.skip("only root can call as another user, with setpriv")
        wrapper = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
        wrapper = (*wrapper, "--inh-caps=-all", "--bounding-set=-all")
    done = subprocess.run(
        [*wrapper, sys.executable, "-m", MODULES[program], *words],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=240,
        check=False,
    )
    if done.returncode == 1 and "No module named" in done.stderr:
        pytest.skip("the other user may not read this checkout")
    return Answer(done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize("name", MISTAKES)
def test_the_answer_names_the_cause_and_the_remedy(name: str, places: dict[str, str]) -> None:
    mistake = MISTAKES[name]
    done = answer(mistake, places)
    text = done.stdout + done.stderr
    assert done.status == mistake.status, text
    assert "Traceback" not in text
    assert text.count("\n") == 1, text
    for part in mistake.said:
        assert part.format(**places) in text
    _record(name, mistake, places, text)


def _record(name: str, mistake: Mistake, places: dict[str, str], text: str) -> None:
    file = os.environ.get("FIRST_ERRORS_TABLE")
    if not file:
        return
    command = mistake.command.format(**places).replace(places["base"], "DIR")
    command = command.replace(places["root"], "REPOSITORY")
    line = text.strip().replace(places["base"], "DIR").replace("|", "\\|")
    user = " (as another user)" if mistake.other_user else ""
    with Path(file).open("a") as table:
        table.write(f"| {name} | `{command}`{user} | {mistake.status} | {line} |\n")


@pytest.mark.parametrize("name", MISTAKES)
def test_the_page_for_trouble_quotes_what_is_printed(name: str) -> None:
    mistake = MISTAKES[name]
    quotes = re.findall(r"`([^`]*)`", PAGE.read_text())
    assert any(mistake.quoted in quote for quote in quotes), mistake.quoted
    assert any(mistake.quoted in part for part in mistake.said), "the answer has it too"


def test_an_old_python_is_named(tmp_path: Path) -> None:
    """`./dev` makes an environment only with a Python that the project supports."""
    names = (f"python3.{minor}" for minor in range(6, 11))
    versions = Path("~/.pyenv/versions").expanduser().glob("3.[6-9].*/bin/python")
    old = next((found for name in names if (found := shutil.which(name))), None)
    old = old or next(map(str, versions), None)
    if old is None:
        pytest.skip("no Python before 3.11 is installed")
    for name in ("dev", "pyproject.toml", "requirements-dev.lock"):
        shutil.copy(ROOT / name, tmp_path)
    done = subprocess.run(
        [tmp_path / "dev", "run", "true"],
        capture_output=True,
        text=True,
        env={**environment(), "PYTHON": old},
        check=False,
    )
    assert done.returncode == 2
    assert "Python 3.11 or later is needed; name one with PYTHON=" in done.stderr
