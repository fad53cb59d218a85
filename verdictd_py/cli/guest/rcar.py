"""`--protocol rcar`: asks a KBS over HTTP, as guests released since late 2024 do."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from verdictd_py import daemon as app
from verdictd_py.cli.guest.options import NAMED
from verdictd_py.cli.guest.packets import opened, packet_of
from verdictd_py.cli.guest.tokens import read_token, write_token
from verdictd_py.config import Address
from verdictd_py.domain.names import LEGACY_RESOURCES, ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.errors import ConfigError, DecryptionFailed, EvidenceFormat
from verdictd_py.formats.eventlog import MAX_LOG_BYTES
from verdictd_py.guest.agent import Unwrapper
from verdictd_py.guest.attesters import SimulatedAttester, TsmAttester, simulated_platform
from verdictd_py.guest.connection import BrokerRefused, BrokerUnreachable
from verdictd_py.guest.rcar.evidence import (
    Evidence,
    NoEvidence,
    SampleEvidence,
    TdxEvidence,
    measurements_of,
)
from verdictd_py.guest.rcar.http import KbsLink, loopback
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import MAX_INIT_DATA_BYTES, Version
from verdictd_py.guest.rcar.session import RcarGuest, RcarSession
from verdictd_py.guest.rcar.token import Token
from verdictd_py.guest.rcar.unwrap import LayerKeys, path_of
from verdictd_py.simulator import TdMeasurements

Ask = Callable[[RcarSession], Awaitable[SecretBytes]]


@dataclass(frozen=True, slots=True)
class _Asker:
    """Who asks whom, out of the command line.

    Attributes:
        token: None where this guest attests itself.
    """

    link: KbsLink
    evidence: Evidence
    version: Version
    kind: TeeKeyKind
    init_data: str | None
    token: tuple[Token, TeeKey] | None

    def session(self) -> AbstractAsyncContextManager[RcarSession]:
        """A session with a key of its own, or with that of the token."""
        token, key = self.token or (None, TeeKey.new(self.kind, self.version))
        guest = RcarGuest(self.evidence, self.version, key, self.init_data)
        return RcarSession.open(self.link, guest, token=token)


async def ask(options: Namespace) -> SecretBytes:
    """What was asked for.

    Raises:
        BrokerRefused: the KBS does not give it.
        ConfigError: the command line, a file or the simulated platform cannot be used.
        RequestError: what is asked for has a name that no KBS has.
    """
    asked = _asking(options)
    asker = _asker(options)
    try:
        async with asyncio.timeout(options.timeout), asker.session() as session:
            return await asked(session)
    except TimeoutError as error:
        raise BrokerUnreachable("the KBS did not answer in time") from error
    except DecryptionFailed as error:
        raise BrokerRefused(str(error)) from error


def connecting(options: Namespace) -> Callable[[], AbstractAsyncContextManager[Unwrapper]]:
    """Opens sessions as this guest, each with a key and evidence of its own.

    Raises:
        ConfigError: as in `ask`.
    """
    asker = _asker(options)

    @asynccontextmanager
    async def connect() -> AsyncIterator[Unwrapper]:
        async with asker.session() as session:
            yield LayerKeys(session, allow_a256ctr=options.allow_a256ctr)

    return connect


def _asking(options: Namespace) -> Ask:
    """What to do with the session, from the words of the command line."""
    if options.asked == "attest":
        return lambda session: _attest(session, options)
    if options.asked == "decrypt":
        packet = packet_of(options.value)
        path_of(str(packet.blob.key_id))  # before anybody is asked
        return lambda session: opened(
            packet, LayerKeys(session, allow_a256ctr=options.allow_a256ctr)
        )
    path = _path(options)
    return lambda session: session.resource(path)


def _path(options: Namespace) -> ResourcePath:
    if options.asked in NAMED:
        return LEGACY_RESOURCES[NAMED[options.asked]]
    value: str = options.value
    if value.startswith("kbs+"):
        raise ConfigError("resources of a KBS's plugins are not asked for here: write kbs:///")
    if options.asked == "key" or "://" in value:
        return path_of(value)
    return ResourcePath.parse(value)


async def _attest(session: RcarSession, options: Namespace) -> SecretBytes:
    """The token's claims as JSON, or the token; it is saved where that was asked for."""
    token = await session.token()
    if options.token_file is not None:
        write_token(options.token_file, token, session.guest.tee_key)
    if options.show_token:
        return SecretBytes(token.content.reveal() + b"\n")
    return SecretBytes(json.dumps(token.claims, indent=2).encode() + b"\n")


def _asker(options: Namespace) -> _Asker:
    version = Version(options.kbs_version or Version.V0_4_0)
    token = None
    if options.token_file is not None and options.asked != "attest":
        token = read_token(options.token_file, version)
    init_data = None if options.init_data is None else _init_data(options.init_data)
    if init_data is not None and version is not Version.V0_4_0:
        raise ConfigError(f"--init-data is carried by --kbs-version {Version.V0_4_0.value} only")
    return _Asker(
        link=_link(options),
        evidence=NoEvidence() if token else _evidence(options, init_data),
        version=version,
        kind=_kind(options, version),
        init_data=init_data,
        token=token,
    )


def _kind(options: Namespace, version: Version) -> TeeKeyKind:
    kind = TeeKeyKind(options.tee_key) if options.tee_key else TeeKeyKind.usual(version)
    if version is Version.V0_1_1 and kind is not TeeKeyKind.RSA:
        raise ConfigError("--kbs-version 0.1.1 knows RSA keys only: --tee-key rsa")
    if kind is TeeKeyKind.EC_P521 and version is not Version.V0_4_0:
        raise ConfigError("--tee-key ec-p521 is of --kbs-version 0.4.0: choose another of the two")
    return kind


def _link(options: Namespace) -> KbsLink:
    """`host:port` is HTTP on this host, unless TLS is spoken of, and HTTPS elsewhere."""
    url: str = options.connect
    if "://" not in url:
        try:
            address = Address.parse(url)
        except ValueError as error:
            raise ConfigError(f"--connect {error}, or a URL") from None
        tls = options.ca is not None or options.insecure_no_tls_verification
        url = f"{'http' if loopback(address.host) and not tls else 'https'}://{address}"
    try:
        return KbsLink(
            url,
            ca=options.ca,
            insecure_no_tls_verification=options.insecure_no_tls_verification,
            insecure_plain_http=options.insecure_plain_http,
            timeout_seconds=options.timeout,
        )
    except ConfigError as error:
        raise ConfigError(f"--connect: {error}") from None


def _evidence(options: Namespace, init_data: str | None) -> Evidence:
    log = None if options.event_log is None else _read(options.event_log, MAX_LOG_BYTES)
    if options.attester == "none":
        raise ConfigError("a KBS asks for evidence: choose another --attester, or --token-file")
    if options.attester == "sample":
        if log is not None:
            raise ConfigError("--event-log is evidence of TDX, and --attester sample has none")
        return SampleEvidence()
    if options.attester == "tdx":
        return TdxEvidence(TsmAttester(), log)
    try:
        td = measurements_of(TdMeasurements(), init_data=init_data, event_log=log)
    except EvidenceFormat as error:
        raise ConfigError(f"{options.event_log}: {error}") from None
    platform = simulated_platform(options.platform.expanduser(), now=app.utc_now())
    return TdxEvidence(SimulatedAttester(platform, td), log)


def _init_data(path: Path) -> str:
    try:
        return _read(path, MAX_INIT_DATA_BYTES).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: init-data is text in UTF-8") from None


def _read(path: Path, most: int) -> bytes:
    try:
        with path.open("rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    if len(content) > most:
        raise ConfigError(f"{path}: larger than {most} bytes")
    return content
