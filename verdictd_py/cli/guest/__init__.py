"""`verdictd-py guest`: attest to a broker and ask it for one thing, or serve image tools."""

from __future__ import annotations

import asyncio
import base64
import signal
import sys
from argparse import SUPPRESS, ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from typing import Final

from verdictd_py import app
from verdictd_py.cli.parsing import EXIT_OK, EXIT_REFUSED, Parser, complain
from verdictd_py.config import Address
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError
from verdictd_py.guest.agent import Connect, KeyProviderAgent
from verdictd_py.guest.attesters import (
    Attester,
    SimulatedAttester,
    TsmAttester,
    guest_context,
    simulated_platform,
)
from verdictd_py.guest.connection import BrokerRefused, GuestConnection
from verdictd_py.keyprovider.packet import AnnotationPacket
from verdictd_py.listeners.client_api import ClientApi
from verdictd_py.ratstls.issue import Form

DEFAULT_PLATFORM: Final = Path("~/.local/state/verdictd-py/simulated-platform")
MAX_PACKET_BYTES: Final = 8 * 1024 * 1024  # as the client API takes

MAX_TIMEOUT_SECONDS: Final = 86_400  # a day, as the daemon's settings

AGENT_DRAIN_SECONDS: Final = 2.0
"""For calls in flight when the agent is told to end."""

_NAMED: Final = {
    "policy": "Policy",
    "cosign-key": "Cosign Key",
    "sigstore": "Sigstore Config",
    "credential": "Credential",
    "keyring": "GPG Keyring",
}
"""Words of this command line -> first-generation names (wire-eaa.md)."""


_FORMS: Final = tuple(form.value for form in Form if form is not Form.NULL)

Ask = Callable[[GuestConnection], Awaitable[SecretBytes]]


def run(argv: Sequence[str]) -> int:
    """0 with what was asked for on standard output; 1 where the broker refused.

    Raises:
        ConfigError: the command line or the simulated platform cannot be used.
    """
    parser = _parser()
    options = parser.parse_args(list(argv))
    if options.connect is None:
        parser.error("the following arguments are required: --connect")
    if options.asked == "agent":
        asyncio.run(_serve(options))
        return EXIT_OK
    try:
        secret = asyncio.run(_connect_and_ask(options, _asking(options)))
    except BrokerRefused as error:
        complain("verdictd-py guest", str(error))
        return EXIT_REFUSED
    content = secret.reveal()
    sys.stdout.buffer.write(base64.b64encode(content) + b"\n" if options.base64 else content)
    sys.stdout.flush()
    return EXIT_OK


def _parser() -> Parser:
    parser = Parser(
        "verdictd-py guest",
        "A reference guest: attests to a broker over RATS-TLS and asks it for one thing, which "
        "goes to\nstandard output as it is. A broker trusts the simulated platform only if it is "
        "told to:\n--unsafe-tdx-root-ca DIR/root-ca.pem --collateral DIR/collateral.json",
        "exit status: 0 got it, 1 the broker refused, 2 wrong command line",
    )
    _add_guest_options(parser)
    parser.add_argument("--base64", action="store_true", help="print base64 and a newline")
    asked = parser.add_subparsers(
        dest="asked",
        required=True,
        metavar="WHAT",
        parser_class=_Word,
        help=f"{', '.join(_NAMED)}, version, key KID, decrypt PACKET (its JSON, base64 or file), "
        "resource PATH, echo TEXT; or agent --keyprovider ADDR, which serves skopeo in the guest",
    )
    for name in _NAMED:
        asked.add_parser(name)
    asked.add_parser("version")
    for name, argument in (
        ("key", "KID"),
        ("decrypt", "PACKET"),
        ("resource", "PATH"),
        ("echo", "TEXT"),
    ):
        asked.add_parser(name).add_argument("value", metavar=argument)
    agent = asked.add_parser("agent")
    agent.add_argument(
        "--keyprovider",
        metavar="ADDR",
        required=True,
        help="where ocicrypt finds it: 127.0.0.1:port or unix:/path",
    )
    _add_guest_options(agent, again=True)
    return parser


def _add_guest_options(parser: ArgumentParser, *, again: bool = False) -> None:
    """Who the guest is and whom it asks.

    Args:
        again: for the words after `agent`, which win over those before it.
    """

    def default(value: object) -> object:
        return SUPPRESS if again else value

    parser.add_argument(
        "--connect", metavar="ADDR", default=default(None), help="host:port or [v6]:port; required"
    )
    parser.add_argument(
        "--attester",
        choices=["simulated", "tdx", "none"],
        default=default("simulated"),
        help="simulated, or tdx: this machine is a TDX guest (simulated)",
    )
    parser.add_argument(
        "--platform",
        metavar="DIR",
        type=Path,
        default=default(DEFAULT_PLATFORM),
        help=f"the simulated platform, made there if it is missing ({DEFAULT_PLATFORM})",
    )
    parser.add_argument(
        "--form",
        choices=_FORMS,
        default=default(Form.CURRENT.value),
        help="generation of certificate",
    )
    parser.add_argument(
        "--endorse",
        action="store_true",
        default=default(False),
        help="send the platform's collateral along",
    )
    parser.add_argument(
        "--timeout", metavar="S", type=_seconds, default=default(30.0), help="seconds (30)"
    )


def _seconds(text: str) -> float:
    """A time that ends: image tools wait for the agent without a deadline of their own."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0 < value <= MAX_TIMEOUT_SECONDS:  # not a number is neither
        raise ArgumentTypeError(f"{text!r}: write seconds, above 0, at most {MAX_TIMEOUT_SECONDS}")
    return value


class _Word(Parser):
    """Parser of one word of the command line."""

    def __init__(self, prog: str, **more: object) -> None:
        del more
        super().__init__(prog, "")


def _asking(options: Namespace) -> Ask:
    """What to do with the connection, from the words of the command line."""
    value = getattr(options, "value", "")

    async def key(connection: GuestConnection) -> SecretBytes:
        return (await connection.keks([value]))[value]

    async def resource(connection: GuestConnection) -> SecretBytes:
        return await connection.resource(_NAMED.get(options.asked, value))

    async def version(connection: GuestConnection) -> SecretBytes:
        return SecretBytes((await connection.version()).encode())

    async def echo(connection: GuestConnection) -> SecretBytes:
        return SecretBytes((await connection.echo(value)).encode())

    if options.asked == "decrypt":
        return _decrypting(value)
    asks: dict[str, Ask] = {"key": key, "version": version, "echo": echo}
    return asks.get(options.asked, resource)


def _decrypting(value: str) -> Ask:
    """`value` is the packet's JSON, its base64, or the name of a file that holds either."""
    packet = AnnotationPacket.decode(_packet_bytes(value))

    async def decrypt(connection: GuestConnection) -> SecretBytes:
        return await connection.decrypt(
            kid=str(packet.blob.key_id),
            encrypted_data=packet.blob.ciphertext,
            algorithm=packet.blob.algorithm.value,
            iv=packet.blob.iv,
        )

    return decrypt


def _packet_bytes(value: str) -> bytes:
    data = value.encode()
    # A path that cannot be opened, perhaps because it is as long as base64 is, is no file.
    with suppress(OSError, ValueError), Path(value).open("rb") as stream:
        data = stream.read(MAX_PACKET_BYTES)
    data = data.strip()
    if data.startswith(b"{"):
        return data
    try:
        return base64.b64decode(data, validate=True)
    except ValueError:
        raise ConfigError(
            "PACKET is no annotation packet: give its JSON, its base64, or a file that holds one"
        ) from None


async def _connect_and_ask(options: Namespace, ask: Ask) -> SecretBytes:
    connect = _connecting(options)
    try:
        async with connect() as connection, asyncio.timeout(options.timeout):
            return await ask(connection)
    except KeyError:
        raise BrokerRefused("the answer lacks what was asked for") from None


def _connecting(options: Namespace) -> Connect:
    """Opens attested connections as this guest, each with a key and evidence of its own.

    Raises:
        ConfigError: the address or the simulated platform cannot be used.
    """
    try:
        address = Address.parse(options.connect)
    except ValueError as error:
        raise ConfigError(f"--connect {error}") from None
    attester: Attester | None = None
    if options.attester == "simulated":
        platform = simulated_platform(options.platform.expanduser(), now=app.utc_now())
        attester = SimulatedAttester(platform, endorse=options.endorse)
    elif options.attester == "tdx":
        attester = TsmAttester()
    form = Form(options.form)

    def connect() -> AbstractAsyncContextManager[GuestConnection]:
        context = guest_context(attester, form, now=app.utc_now())
        return GuestConnection.open(
            address.host, address.port, context, timeout_seconds=options.timeout
        )

    return connect


async def _serve(options: Namespace) -> None:
    """Serves image tools of this host until SIGTERM or SIGINT.

    Raises:
        ConfigError: it cannot start; one line says why.
    """
    address = _agent_address(options.keyprovider)
    agent = KeyProviderAgent(_connecting(options), timeout_seconds=options.timeout)
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    listener = ClientApi(tls=None, option="--keyprovider")
    agent.register(listener.server)
    bound = listener.bind(address)
    await listener.start()
    print(f"serving ocicrypt's key provider on {bound}", flush=True)
    await ended.wait()
    await listener.drain(AGENT_DRAIN_SECONDS)


def _agent_address(text: str) -> Address:
    """Whoever reaches the agent is given what this guest is given, so only this host may."""
    try:
        address = Address.parse(text, unix_allowed=True)
    except ValueError as error:
        raise ConfigError(f"--keyprovider {error}, or unix:/path") from None
    if not address.local:
        raise ConfigError(
            f"--keyprovider {address} can be reached from other hosts, which would be given this "
            "guest's keys; write 127.0.0.1:port or unix:/path"
        )
    return address
