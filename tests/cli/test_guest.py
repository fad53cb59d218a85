"""`verdictd-py guest` against a broker in another process, and `verdictd-py demo`."""

from __future__ import annotations

import base64
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.broker import KEY, KID
from tests.support.command import Ended, Run, run, run_all, run_here, running_daemon
from verdictd_py import __version__
from verdictd_py import daemon as app
from verdictd_py.broker import ciphers
from verdictd_py.cli.verdict import main as verdict
from verdictd_py.domain.names import KeyId
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.domain.wrapping import Algorithm, WrappedBlob
from verdictd_py.guest.attesters import COLLATERAL_FILE, simulated_platform
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket, PacketForm

LAYER = b'{"symkey":"of a layer"}'
RESOURCE = bytes(range(256)) * 64
COSIGN = b"-----BEGIN PUBLIC KEY-----\nMFkw\n-----END PUBLIC KEY-----\n"
PROGRAM = "verdictd-py guest"


@dataclass(frozen=True)
class Place:
    """A running broker, its files, and the command lines of its guests."""

    address: str
    base: Path
    log: list[str]

    def guest(self, *words: str) -> Run:
        platform = ("--platform", str(self.base / "platform"))
        return Run(("guest", "--connect", self.address, *platform, *words))


def packet() -> bytes:
    """Return the packet of LAYER, wrapped with the key of the guide."""
    iv = bytes(range(12))
    ciphertext = ciphers.encrypt(Algorithm.AES_GCM, SecretBytes(KEY), iv, SecretBytes(LAYER))
    blob = WrappedBlob(KeyId.parse(KID), Algorithm.AES_GCM, iv, ciphertext)
    return AnnotationPacket(PacketForm.LEGACY, KID, blob).encode()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    base = tmp_path_factory.mktemp("guest")
    for name, content in {
        f"data/keys/{KID}": KEY,
        "data/resources/my/secret/1": RESOURCE,
        "data/image/cosign.key": COSIGN,
        "packet.json": packet(),
        "packet.b64": base64.b64encode(packet()) + b"\n",
    }.items():
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(content)
    simulated_platform(base / "platform", now=app.utc_now())
    words = (
        *("--listen", "127.0.0.1:0", "--client-api", "127.0.0.1:0", "--verifier", "tdx"),
        *("--data-dir", str(base / "data")),
        *("--unsafe-tdx-root-ca", str(base / "platform/root-ca.pem")),
        *("--collateral", str(base / "platform" / COLLATERAL_FILE)),
    )
    with running_daemon(*words) as daemon:
        found = Place(daemon.wait_for("daemon.started")["listen"], base, [])
        yield found
        status, stdout = daemon.end(signal.SIGTERM)
        assert (status, stdout) == (0, "")
        found.log.extend(map(repr, daemon.seen))
    for secret in (KEY, LAYER, RESOURCE):  # defects.md 2
        for form in (repr(secret)[2:-1], base64.b64encode(secret).decode(), secret.hex()):
            assert form not in "\n".join(found.log)


Ask = Callable[..., Ended]


@pytest.fixture
def ask(place: Place, capfdbinary: pytest.CaptureFixture[bytes]) -> Ask:
    """Run guests in this process, which is faster."""
    return lambda *words: run_here(place.guest(*words).arguments, capfdbinary)


@pytest.mark.parametrize(
    ("words", "answer"),
    [
        (["key", KID], KEY),
        (["--base64", "key", KID], base64.b64encode(KEY) + b"\n"),
        (["decrypt", packet().decode()], LAYER),
        (["decrypt", base64.b64encode(packet()).decode()], LAYER),
        (["resource", "my/secret/1"], RESOURCE),
        (["--endorse", "policy"], b'{"default":[{"type":"reject"}],"transports":{}}\n'),
        (["--form", "legacy", "cosign-key"], COSIGN),
        (["--form", "dice-critical", "--timeout", "50", "echo", "good morning"], b"good morning"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_a_genuine_guest_prints_only_the_bytes_of_the_secret(
    ask: Ask, words: list[str], answer: bytes
) -> None:
    assert ask(*words) == Ended(0, answer, "")


def test_a_packet_may_be_in_a_file(ask: Ask, place: Place) -> None:
    for name in ("packet.json", "packet.b64"):
        assert ask("decrypt", str(place.base / name)) == Ended(0, LAYER, "")


def test_version_prints_the_version_of_the_broker(ask: Ask) -> None:
    done = ask("version")
    assert (done.status, done.stderr) == (0, "")
    assert done.stdout.decode().isprintable()
    assert done.stdout


@pytest.mark.parametrize(
    ("words", "status", "cause"),
    [
        (["key", "no-such-key"], 1, "no-such-key"),
        (["resource", "no/such/resource"], 1, "no/such/resource"),
        (["decrypt", packet().decode().replace(KID, "no-such-key")], 1, "no-such-key"),
        (["--attester", "none", "policy"], 1, "refused: evidence-missing; ask the operator about "),
        (["decrypt", "nothing like it"], 2, "give its JSON, its base64, or its file"),
        (["decrypt", "e" * 300], 2, "annotation packet"),
        (["--connect", "nowhere", "policy"], 2, "--connect 'nowhere' is not an address"),
        (["--platform", "/dev/null/x", "policy"], 2, "/dev/null/x"),
        (["--form", "none-such", "policy"], 2, "verdictd-py guest --help"),
        (["--timeout", "soon", "policy"], 2, "verdictd-py guest --help"),
        (["sing"], 2, "verdictd-py guest --help"),
        ([], 2, "WHAT"),
    ],
    ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else "",
)
def test_an_error_is_one_line_with_its_cause(
    ask: Ask, words: list[str], status: int, cause: str
) -> None:
    assert cause in ask(*words).complaint(status, PROGRAM)


def test_the_installed_command_prints_secrets_and_errors(place: Place) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        nobody = Place(f"127.0.0.1:{port}", place.base, [])
        done = run_all(
            {
                "key": place.guest("key", KID),
                "refused": place.guest("--attester", "none", "key", KID),
                "nobody there": nobody.guest("policy"),
            }
        )
    assert done["key"] == Ended(0, KEY, "")
    assert "refused: evidence-missing" in done["refused"].complaint(1, PROGRAM)
    line = done["nobody there"].complaint(3, PROGRAM)
    assert line == (
        f"cannot connect to 127.0.0.1:{port}: nothing listens there; start the broker, or correct "
        "--connect"
    )


@pytest.mark.parametrize(
    ("level", "said"),
    [
        ("debug", ["INFO connected to", "INFO the handshake", "DEBUG request: Get KEK"]),
        ("info", ["INFO connected to", "INFO the handshake is complete"]),
        ("warning", []),
    ],
)
def test_the_log_level_decides_which_steps_are_written(
    ask: Ask, level: str, said: list[str]
) -> None:
    done = ask("key", KID, "--log-level", level, "--base64")
    assert (done.status, done.stdout) == (0, base64.b64encode(KEY) + b"\n")
    lines = done.stderr.splitlines()
    assert len([line for line in lines if "DEBUG" in line]) == (2 if level == "debug" else 0)
    for part in said:
        assert any(part in line for line in lines), lines
    assert bool(lines) == bool(said)
    for secret in (KEY.hex(), base64.b64encode(KEY).decode(), repr(KEY)[2:-1]):
        assert secret not in done.stderr


def test_the_demo_runs_every_step() -> None:
    """The demo prints each refusal with its reason."""
    done = run(Run(("demo", "--exit")))
    assert (done.status, done.stderr) == (0, "")
    story = done.stdout.decode()
    for part in (
        f"wrapped with key {KID}",
        "the unwrapped layer key is the original",
        '{"default":[{"type":"reject"}],"transports":{}}',
        "refused: quote-invalid",
        "debug: measured true, expected false",
        "refused: evidence-missing",
    ):
        assert part in story


class TestManagementCommand:
    def test_version_and_help(self, capsys: pytest.CaptureFixture[str]) -> None:
        for option, text in (("--version", f"verdict-py {__version__}\n"), ("--help", "usage:")):
            with pytest.raises(SystemExit) as ended:
                verdict([option])
            assert ended.value.code == 0
            assert text in capsys.readouterr().out
