"""Builds the HTTP listener, its sessions and its keys."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final, Self

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256

from verdictd_py.broker.handshakes import Handshakes
from verdictd_py.config import Address, Settings, Unsafe
from verdictd_py.daemon.usecases import UseCases
from verdictd_py.errors import ConfigError
from verdictd_py.listeners import sockets
from verdictd_py.listeners.kbs import KbsListener
from verdictd_py.listeners.kbs.admins import AdminRoutes
from verdictd_py.listeners.kbs.files import read_admins, read_token_key
from verdictd_py.listeners.kbs.guests import GuestRoutes
from verdictd_py.listeners.kbs.tls import KbsTls
from verdictd_py.listeners.limits import Limits
from verdictd_py.ports import Events, SessionStore
from verdictd_py.protocols.rcar.admins import AdminKeys
from verdictd_py.protocols.rcar.tokens import Tokens
from verdictd_py.storage.sessions import MemorySessionStore
from verdictd_py.storage.sqlite_sessions import SqliteSessionStore

_OF_LISTENER: Final = (
    "kbs_tls_cert",
    "kbs_tls_key",
    "kbs_admins",
    "kbs_token_key",
    "kbs_sessions",
)
_UNSAFE_OF_LISTENER: Final = ("insecure_kbs_http", "insecure_sample_verifier")


def listener_of(
    settings: Settings,
    unsafe: Unsafe,
    use_cases: UseCases,
    *,
    clock: Callable[[], datetime],
    events: Events,
    limits: Limits,
) -> KbsService | None:
    """The listener, None where there is no address for it.

    Raises:
        ConfigError: one line: cause and remedy; also for settings of a listener that is off.
    """
    address = settings.kbs_http_address
    if address is not None:
        return KbsService(
            address, settings, unsafe, use_cases, clock=clock, events=events, limits=limits
        )
    given = [name for name in _OF_LISTENER if getattr(settings, name) is not None]
    given += [name for name in _UNSAFE_OF_LISTENER if getattr(unsafe, name)]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise ConfigError(
            f"{option} has no effect without --kbs-http; give the listener an address, "
            f"or remove {option}"
        )
    return None


class KbsService:
    """The daemon's HTTP listener, where the operator gave it an address.

    Attributes:
        address: with the port that the system chose, once it is bound.
        self_signed: the listener's certificate where it made one itself, PEM.
    """

    def __init__(
        self,
        address: Address,
        settings: Settings,
        unsafe: Unsafe,
        use_cases: UseCases,
        *,
        clock: Callable[[], datetime],
        events: Events,
        limits: Limits,
    ) -> None:
        """Reads what the settings name; nothing is bound.

        Raises:
            ConfigError: one line: cause and remedy.
        """
        self.address = address
        self._listening: socket.socket | None = None
        self._tls = _tls(address, settings, unsafe, clock)
        tokens = Tokens(_token_key(settings), use_cases.trusted_root)
        self._read_admins = partial(_admins, settings, tokens)
        self._admins = self._read_admins()
        self._sessions = _sessions(settings)
        self._handshakes = Handshakes(
            appraiser=use_cases.appraiser,
            releaser=use_cases.releaser,
            sessions=self._sessions,
            tokens=tokens,
            clock=clock,
            unpinned=use_cases.open_measurements.of,
        )
        self._listener = KbsListener(
            guests=GuestRoutes(self._handshakes, tokens, secure=self._tls is not None),
            admins=AdminRoutes(use_cases.administration, lambda: self._admins, clock),
            events=events,
            tees=use_cases.tees,
            limits=limits,
            tls=_context_of(self._tls),
            drain_seconds=settings.drain_timeout,
        )

    @property
    def self_signed(self) -> bytes:
        return b"" if self._tls is None else self._tls.self_signed

    @property
    def fingerprint(self) -> str | None:
        """SHA-256 of that certificate, as openssl writes it, to compare with what clients see."""
        if not self.self_signed:
            return None
        certificate = x509.load_pem_x509_certificate(self.self_signed)
        return certificate.fingerprint(SHA256()).hex(":").upper()

    @property
    def administrators(self) -> tuple[str, ...]:
        """Names of the keys whose tokens are taken."""
        return tuple(key.name for key in self._admins.keys)

    @property
    def url(self) -> str:
        """What clients are given."""
        return f"{'http' if self._tls is None else 'https'}://{self.address}"

    def bind(self) -> Self:
        """Binds, accepts nothing yet.

        Raises:
            ConfigError: one line: cause and remedy.
        """
        self._listening = sockets.bind(self.address, option="--kbs-http")
        host, port = self._listening.getsockname()[:2]
        self.address = Address(host, port)
        return self

    def unbind(self) -> None:
        """Lets the address and the sessions go, where another address could not be had."""
        if self._listening is not None:
            self._listening.close()
        self._close_sessions()

    async def start(self) -> None:
        """Accepts on what was bound."""
        if self._listening is not None:
            await self._listener.start(self._listening)

    async def drain(self) -> None:
        """Stops accepting and lets requests in flight finish."""
        await self._listener.drain()
        self._close_sessions()

    def _close_sessions(self) -> None:
        if isinstance(self._sessions, SqliteSessionStore):
            self._sessions.close()

    def reload(self) -> tuple[str, ...]:
        """Reads the certificate with its key, and who may administer, again.

        Returns:
            A line for each that cannot be used; what was read before stays in force.
        """
        problems = []
        for read in (self._reload_tls, self._reload_admins):
            try:
                read()
            except ConfigError as error:
                problems.append(str(error))
        return tuple(problems)

    def _reload_tls(self) -> None:
        if self._tls is not None:
            self._tls.reload()

    def _reload_admins(self) -> None:
        self._admins = self._read_admins()


def _context_of(tls: KbsTls | None) -> Callable[[], ssl.SSLContext] | None:
    return None if tls is None else lambda: tls.context


def _tls(
    address: Address, settings: Settings, unsafe: Unsafe, clock: Callable[[], datetime]
) -> KbsTls | None:
    """1. The operator's files. 2. None on loopback, or where that was asked for. 3. Our own."""
    certificate, key = settings.kbs_tls_cert, settings.kbs_tls_key
    if certificate is not None and unsafe.insecure_kbs_http:
        raise ConfigError(
            "--insecure-kbs-http and --kbs-tls-cert contradict each other; remove one of them"
        )
    if certificate is not None and key is not None:  # 1
        return KbsTls.read(certificate, key)
    if certificate is not None or key is not None:
        raise ConfigError("--kbs-tls-cert and --kbs-tls-key go together; give both, or neither")
    if address.local or unsafe.insecure_kbs_http:  # 2
        return None
    return KbsTls.own(address.host, now=clock())  # 3


def _token_key(settings: Settings) -> ec.EllipticCurvePrivateKey:
    if settings.kbs_token_key is not None:
        return read_token_key(settings.kbs_token_key)
    if settings.kbs_sessions is not None:
        raise ConfigError(
            "--kbs-sessions needs --kbs-token-key: brokers that share sessions sign with one key"
        )
    return ec.generate_private_key(ec.SECP256R1())


def _admins(settings: Settings, tokens: Tokens) -> AdminKeys:
    if settings.kbs_admins is None:
        return AdminKeys()
    admins = read_admins(settings.kbs_admins)
    for each in admins.keys:
        if each.key == tokens.key.public_key():
            raise ConfigError(
                f"key {each.name!r} in {settings.kbs_admins} is that of --kbs-token-key, so every "
                "guest's token would be one of its; give administrators a key of their own"
            )
    return admins


def _sessions(settings: Settings) -> SessionStore:
    if settings.kbs_sessions is None:
        return MemorySessionStore()
    return SqliteSessionStore.open(settings.kbs_sessions)
