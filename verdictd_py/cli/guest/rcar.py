"""`--protocol rcar`: requests to a KBS over HTTP, as by guests released since late 2024."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from verdictd_py import daemon as app
from verdictd_py.cli.guest.options import NAMED, platform_directory
from verdictd_py.cli.guest.packets import read_packet, unwrap
from verdictd_py.cli.guest.tokens import read_token, write_token
from verdictd_py.cli.parsing import read_whole
from verdictd_py.domain.addresses import Address
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

Operation = Callable[[RcarSession], Awaitable[SecretBytes]]


@dataclass(frozen=True, slots=True)
class _Requester:
    """A guest and its KBS, as the command line describes them.

    Attributes:
        token: token and its key; None if the guest attests.
    """

    link: KbsLink
    evidence: Evidence
    version: Version
    kind: TeeKeyKind
    init_data: str | None
    token: tuple[Token, TeeKey] | None

    def session(self) -> AbstractAsyncContextManager[RcarSession]:
        """Open a session with a new key, or with the key of the token."""
        token, key = self.token or (None, TeeKey.new(self.kind, self.version))
        guest = RcarGuest(self.evidence, self.version, key, self.init_data)
        return RcarSession.open(self.link, guest, token=token)


async def fetch(options: Namespace) -> SecretBytes:
    """Request a secret and return it.

    Raises:
        BrokerRefused: the KBS does not release the secret.
        ConfigError: the command line, a file or the simulated platform cannot be used.
        RequestError: the name of the resource is not valid.
    """
    operation = _operation(options)
    requester = _requester(options)
    try:
        async with asyncio.timeout(options.timeout), requester.session() as session:
            return await operation(session)
    except TimeoutError as error:
        raise BrokerUnreachable("the KBS did not answer in time; raise --timeout") from error
    except DecryptionFailed as error:
        raise BrokerRefused(str(error)) from error


def connector(options: Namespace) -> Callable[[], AbstractAsyncContextManager[Unwrapper]]:
    """Return a function that opens sessions with a new key and new evidence.

    Raises:
        ConfigError: as in `fetch`.
    """
    requester = _requester(options)

    @asynccontextmanager
    async def connect() -> AsyncIterator[Unwrapper]:
        async with requester.session() as session:
            yield LayerKeys(session, allow_a256ctr=options.allow_a256ctr)

    return connect


def _operation(options: Namespace) -> Operation:
    """Return the operation on a session that the command line requests."""
    if options.request == "attest":
        return lambda session: _attest(session, options)
    if options.request == "decrypt":
        packet = read_packet(options.value)
        path_of(str(packet.blob.key_id))  # before any request
        return lambda session: unwrap(
            packet, LayerKeys(session, allow_a256ctr=options.allow_a256ctr)
        )
    path = _path(options)
    return lambda session: session.resource(path)


def _path(options: Namespace) -> ResourcePath:
    if options.request in NAMED:
        return LEGACY_RESOURCES[NAMED[options.request]]
    value: str = options.value
    if value.startswith("kbs+"):
        raise ConfigError("resources of a KBS's plug-ins are not supported: write kbs:///")
    if options.request == "key" or "://" in value:
        return path_of(value)
    return ResourcePath.parse(value)


async def _attest(session: RcarSession, options: Namespace) -> SecretBytes:
    """Attest, save the token if requested, and return its claims as JSON, or the token."""
    token = await session.token()
    if options.token_file is not None:
        write_token(options.token_file, token, session.guest.tee_key)
    if options.show_token:
        return SecretBytes(token.content.reveal() + b"\n")
    return SecretBytes(json.dumps(token.claims, indent=2).encode() + b"\n")


def _requester(options: Namespace) -> _Requester:
    version = Version(options.kbs_version or Version.V0_4_0)
    token = None
    if options.token_file is not None and options.request != "attest":
        token = read_token(options.token_file, version)
    init_data = None if options.init_data is None else _init_data(options.init_data)
    if init_data is not None and version is not Version.V0_4_0:
        raise ConfigError(f"--init-data needs --kbs-version {Version.V0_4_0.value}")
    return _Requester(
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
        raise ConfigError("--kbs-version 0.1.1 supports RSA keys only: use --tee-key rsa")
    if kind is TeeKeyKind.EC_P521 and version is not Version.V0_4_0:
        raise ConfigError("--tee-key ec-p521 needs --kbs-version 0.4.0: change one of them")
    return kind


def _link(options: Namespace) -> KbsLink:
    """Open the link; `host:port` means HTTP on loopback without TLS options, else HTTPS."""
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
    log = None if options.event_log is None else read_whole(options.event_log, MAX_LOG_BYTES)
    if options.attester == "none":
        raise ConfigError("a KBS requires evidence: choose another --attester, or --token-file")
    if options.attester == "sample":
        if log is not None:
            raise ConfigError("--event-log is evidence of TDX: remove it or --attester sample")
        return SampleEvidence()
    if options.attester == "tdx":
        return TdxEvidence(TsmAttester(), log)
    try:
        td = measurements_of(TdMeasurements(), init_data=init_data, event_log=log)
    except EvidenceFormat as error:
        raise ConfigError(f"{options.event_log}: {error}") from None
    platform = simulated_platform(platform_directory(options), now=app.utc_now())
    return TdxEvidence(SimulatedAttester(platform, td), log)


def _init_data(path: Path) -> str:
    try:
        return read_whole(path, MAX_INIT_DATA_BYTES).decode()
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: init-data is not UTF-8 text; check its name") from None
