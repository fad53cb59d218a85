"""Construction of the HTTP listener, its sessions and its keys."""

from __future__ import annotations

import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Final, Self

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from verdictd_py.broker.handshakes import Handshakes
from verdictd_py.config import Address, Settings, Unsafe
from verdictd_py.daemon.readiness import Probe
from verdictd_py.daemon.sessions import OpenedSessions, open_sessions
from verdictd_py.daemon.tokenkeys import SharedTokenKeys
from verdictd_py.daemon.usecases import UseCases
from verdictd_py.errors import ConfigError
from verdictd_py.listeners.census import ListenerCensus
from verdictd_py.listeners.kbs import KbsListener
from verdictd_py.listeners.kbs.admins import AdminRoutes
from verdictd_py.listeners.kbs.files import read_admins, read_token_key
from verdictd_py.listeners.kbs.guests import GuestRoutes
from verdictd_py.listeners.kbs.tls import KbsTls
from verdictd_py.listeners.limits import Limits
from verdictd_py.listeners.proxies import Proxies
from verdictd_py.listeners.reread import Reread, differences
from verdictd_py.ports import Events
from verdictd_py.ports.tokenkeys import TokenKeyStore
from verdictd_py.protocols.rcar.admins import AdminKeys
from verdictd_py.protocols.rcar.tokenring import TokenRing
from verdictd_py.stages import Meter
from verdictd_py.storage.sharedsessions import SharedSessionStore

OF_LISTENER: Final = (
    "kbs_tls_cert",
    "kbs_tls_key",
    "kbs_admins",
    "kbs_token_key",
    "kbs_sessions",
    "forwarded_for_from",
)
_UNSAFE_OF_LISTENER: Final = ("insecure_kbs_http", "insecure_sample_verifier")


@dataclass(frozen=True, slots=True)
class KbsIdentity:
    """Keys of the HTTP listener, the same in each process that serves it.

    Attributes:
        address: address of the listener.
        token_key: key that signs attestation tokens; None if brokers share keys in their store.
        tls: TLS settings; None for plain HTTP.
    """

    address: Address
    token_key: ec.EllipticCurvePrivateKey | None = field(repr=False)
    tls: KbsTls | None

    @property
    def scheme(self) -> str:
        return "http" if self.tls is None else "https"

    def exported(self) -> dict[str, str]:
        """Return the keys that only this process has, for another one: secrets."""
        key = b""
        if self.token_key is not None:
            key = self.token_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        tls = b"" if self.tls is None else self.tls.exported
        return {
            "address": str(self.address),
            "token_key": key.decode(),
            "self_signed": tls.decode(),
        }

    @classmethod
    def imported(
        cls,
        exported: Mapping[str, str],
        settings: Settings,
        unsafe: Unsafe,
        clock: Callable[[], datetime],
    ) -> Self:
        """Return the identity of another process, with the same settings (see `exported`).

        Raises:
            ConfigError: a file of the settings cannot be used.
        """
        address = Address.parse(exported["address"])
        key: ec.EllipticCurvePrivateKey | None = None
        if pem := exported["token_key"]:
            sent = load_pem_private_key(pem.encode(), password=None)
            if not isinstance(sent, ec.EllipticCurvePrivateKey):
                raise ConfigError("another process of the broker sent no key for tokens")
            key = sent
        if own := exported["self_signed"]:
            return cls(address, key, KbsTls.imported(own.encode(), address.host, clock=clock))
        return cls(address, key, _tls(address, settings, unsafe, clock))


def kbs_identity(
    settings: Settings,
    unsafe: Unsafe,
    clock: Callable[[], datetime],
    passed: socket.socket | None = None,
) -> KbsIdentity | None:
    """Read or create the keys of the listener; return None if the settings have no address for it.

    Args:
        passed: listening socket of the service manager, used instead of the address.

    Raises:
        ConfigError: a setting cannot be used, or has no effect because the listener is off;
            the message has the cause and the remedy.
    """
    address = settings.kbs_http_address
    if address is None and passed is not None:
        raise ConfigError("the service manager passed the socket kbs_http: set --kbs-http, too")
    if address is None:
        refuse_settings_without_effect(settings, unsafe)
        return None
    if passed is not None:  # its own address decides whether TLS is needed
        address = Address(*passed.getsockname()[:2])
    return KbsIdentity(address, _token_key(settings), _tls(address, settings, unsafe, clock))


def kbs_listener(  # noqa: PLR0913  # what the listener is built from, all by keyword
    settings: Settings,
    use_cases: UseCases,
    identity: KbsIdentity,
    *,
    clock: Callable[[], datetime],
    events: Events,
    limits: Limits,
    watch: Callable[[str, Probe], object],
    token_keys: TokenKeyStore,
    unsafe: Unsafe,
    passed: socket.socket | None = None,
    shared: SharedSessionStore | None = None,
    census: ListenerCensus | None = None,
    meter: Meter | None = None,
) -> KbsListener:
    """Build the listener.

    Args:
        watch: receives the probe of the sessions, for the readiness of the broker.
        token_keys: store of the keys of tokens, for brokers without a key of their own.
        passed: its listening socket, used instead of binding the address.
        shared: sessions of all workers, unless the settings name a store; None for one process.
        census: counters of the connections of all workers; None for one process.
        meter: measures connections; None if nothing is measured.

    Raises:
        ConfigError: a setting cannot be used; the message has the cause and the remedy.
    """
    tls = identity.tls
    ring, shared_keys = TokenRing(use_cases.trusted_root), None
    if identity.token_key is not None:
        ring = TokenRing.of(identity.token_key, use_cases.trusted_root)
    else:
        lifetime = timedelta(days=settings.kbs_token_key_days)
        shared_keys = SharedTokenKeys(
            token_keys, ring, lifetime=lifetime, clock=clock, events=events
        )
    admins = Reread(partial(_admins, settings, ring), _changed_admins, AdminKeys.lessened)
    sessions = open_sessions(settings, unsafe, events, shared)  # last, because it may open a file
    handshakes = Handshakes(
        appraiser=use_cases.appraiser,
        releaser=use_cases.releaser,
        sessions=sessions.store,
        ring=ring,
        clock=clock,
    )
    watch("sessions", partial(_probe_sessions, sessions, handshakes, shared_keys, clock))
    listener = KbsListener(
        identity.address,
        guests=GuestRoutes(handshakes, ring, secure=tls is not None),
        administration=AdminRoutes(use_cases.administration, lambda: admins.current, clock),
        admins=admins,
        events=events,
        tees=use_cases.tees,
        limits=limits,
        tls=tls,
        proxies=Proxies(settings.proxy_protocol_from, settings.forwarded_for_from),
        on_started=None if shared_keys is None else shared_keys.start,
        on_stopped=sessions.close,
        clock=clock,
        passed=passed,
        census=census,
        meter=meter,
    )
    listener.session_counts = sessions.counts
    return listener


async def _probe_sessions(
    sessions: OpenedSessions,
    handshakes: Handshakes,
    keys: SharedTokenKeys | None,
    clock: Callable[[], datetime],
) -> str:
    """Return why sessions cannot be used, empty if they can; sessions in memory always can.

    Also release what has expired, of which an idle broker would otherwise retain up to 775 MiB.
    """
    handshakes.release(clock())
    sessions.release(clock())
    return await sessions.fault() or ("" if keys is None else await keys.fault())


def refuse_settings_without_effect(settings: Settings, unsafe: Unsafe) -> None:
    """Refuse settings of the listener without its address.

    Raises:
        ConfigError: there is one.
    """
    if settings.kbs_http_address is not None:
        return
    given = [name for name in OF_LISTENER if getattr(settings, name) not in (None, ())]
    given += [name for name in _UNSAFE_OF_LISTENER if getattr(unsafe, name)]
    if given:
        option = "--" + given[0].replace("_", "-")
        raise ConfigError(
            f"{option} has no effect without --kbs-http; give the listener an address, "
            f"or remove {option}"
        )


def _tls(
    address: Address, settings: Settings, unsafe: Unsafe, clock: Callable[[], datetime]
) -> KbsTls | None:
    """Choose the listener's TLS settings.

    1. The operator's certificate. 2. None on loopback, or with the insecure option. 3. A
    self-signed certificate.

    Raises:
        ConfigError: options contradict each other, or a file cannot be used.
    """
    require_consistent_tls(settings, unsafe)
    certificate, key = settings.kbs_tls_cert, settings.kbs_tls_key
    if certificate is not None and key is not None:  # 1
        return KbsTls.read(certificate, key)
    if address.local or unsafe.insecure_kbs_http:  # 2
        return None
    return KbsTls.create(address.host, clock=clock)  # 3


def require_consistent_tls(settings: Settings, unsafe: Unsafe) -> None:
    """Refuse a certificate without its key, and one that is not used.

    Raises:
        ConfigError: options contradict each other.
    """
    certificate, key = settings.kbs_tls_cert, settings.kbs_tls_key
    if certificate is not None and unsafe.insecure_kbs_http:
        raise ConfigError(
            "--insecure-kbs-http and --kbs-tls-cert contradict each other; remove one of them"
        )
    if (certificate is None) != (key is None):
        raise ConfigError("--kbs-tls-cert and --kbs-tls-key go together; give both, or neither")


def require_token_key(settings: Settings) -> None:
    """Refuse sessions in a file that brokers share without a shared key of tokens.

    Brokers that share an engine share the keys of tokens in their store.

    Raises:
        ConfigError: the key is missing.
    """
    if settings.kbs_sessions_file is not None and settings.kbs_token_key is None:
        raise ConfigError(
            "--kbs-sessions needs --kbs-token-key: brokers that share sessions sign with one key"
        )


def _token_key(settings: Settings) -> ec.EllipticCurvePrivateKey | None:
    require_token_key(settings)
    if settings.kbs_token_key is not None:
        return read_token_key(settings.kbs_token_key)
    if settings.kbs_sessions is not None and settings.kbs_sessions_file is None:
        return None
    return ec.generate_private_key(ec.SECP256R1())


def _admins(settings: Settings, ring: TokenRing) -> AdminKeys:
    if settings.kbs_admins is None:
        return AdminKeys()
    admins = read_admins(settings.kbs_admins)
    require_separate_admins(settings.kbs_admins, admins, ring.public_keys)
    return admins


def require_separate_admins(
    file: Path, admins: AdminKeys, token_keys: Collection[ec.EllipticCurvePublicKey]
) -> None:
    """Refuse administrators with a key of tokens.

    Raises:
        ConfigError: there is one.
    """
    for key in admins.keys:
        if key.key in token_keys:
            raise ConfigError(
                f"key {key.name!r} in {file} is that of --kbs-token-key, so every "
                "guest's token would be an administrator's; give administrators another key"
            )


def _changed_admins(before: AdminKeys, after: AdminKeys) -> tuple[str, ...]:
    rights = [
        {
            key.name: f"roles {' '.join(sorted(key.roles))}, default {key.default_role}, "
            f"prefix {key.prefix!r}"
            for key in admins.keys
        }
        for admins in (before, after)
    ]
    changes = differences("HTTP administrator", *rights)
    old = {key.name: key.key for key in before.keys}
    replaced = (key.name for key in after.keys if old.get(key.name, key.key) != key.key)
    return (*changes, *(f"HTTP administrator {name}: another key" for name in replaced))
