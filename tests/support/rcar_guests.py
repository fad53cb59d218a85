"""Guests that speak RCAR to any KBS, honest or with one thing wrong.

guest = tdx_guest(platform, Version.V0_4_0, TeeKeyKind.EC_P521, init_data=TEXT)
async with attested(url, guest) as session:
    secret = await session.resource(ResourcePath.parse("default/key/1"))

async with connected(url, guest) as session:  # nothing said yet
    with pytest.raises(KbsRefused) as raised:
        await attest(session, with_nonce("b3RoZXI="))
    assert raised.value.variant == "AttestationError"
"""

from __future__ import annotations

import base64
import copy
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import httpx
from jwcrypto import jwk, jws

from verdictd_py.encoding import JsonValue
from verdictd_py.guest.attesters import SimulatedAttester
from verdictd_py.guest.rcar.errors import to_base64url
from verdictd_py.guest.rcar.evidence import (
    AdditionalEvidence,
    SampleEvidence,
    TdxEvidence,
    measurements_of,
    no_devices,
)
from verdictd_py.guest.rcar.http import KbsLink
from verdictd_py.guest.rcar.keys import TeeKey, TeeKeyKind
from verdictd_py.guest.rcar.messages import JsonObject, MemberOrder, Version
from verdictd_py.guest.rcar.session import RcarGuest, RcarSession
from verdictd_py.guest.rcar.token import Token
from verdictd_py.simulator import Flaw, SimulatedPlatform, TdMeasurements

SESSION_COOKIE = "kbs-session-id"

EVERY_GUEST = [  # what has been released: wire-rcar.md, "Versions"
    (Version.V0_1_1, TeeKeyKind.RSA),
    *((Version.V0_2_0, kind) for kind in TeeKeyKind),
    *((Version.V0_4_0, kind) for kind in TeeKeyKind),
]
"""For `pytest.mark.parametrize(("version", "kind"), EVERY_GUEST)`."""

Tamper = Callable[[JsonObject], None]
"""Changes the body of `attest` where it stands."""


def tdx_guest(
    platform: SimulatedPlatform,
    version: Version = Version.V0_4_0,
    kind: TeeKeyKind | None = None,
    *,
    td: TdMeasurements | None = None,
    init_data: str | None = None,
    event_log: bytes | None = None,
    additional: AdditionalEvidence = no_devices,
    order: MemberOrder = MemberOrder.SORTED,
    flaw: Flaw | None = None,
) -> RcarGuest:
    """An honest TDX guest: it measured the init-data and the log that it shows.

    Args:
        kind: of key; the usual one of that version where left out.
        flaw: what is wrong with its quotes.
    """
    honest = measurements_of(td or TdMeasurements(), init_data=init_data, event_log=event_log)
    return RcarGuest(
        evidence=TdxEvidence(SimulatedAttester(platform, honest, flaw=flaw), event_log),
        version=version,
        key=TeeKey.new(kind or TeeKeyKind.usual(version), version),
        init_data=init_data,
        additional=additional,
        order=order,
    )


def sample_guest(
    version: Version = Version.V0_4_0,
    kind: TeeKeyKind | None = None,
    *,
    additional: AdditionalEvidence = no_devices,
) -> RcarGuest:
    """A guest without hardware, as kbs-client is."""
    key = TeeKey.new(kind or TeeKeyKind.usual(version), version)
    return RcarGuest(SampleEvidence(), version=version, key=key, additional=additional)


@asynccontextmanager
async def connected(
    url: str,
    guest: RcarGuest,
    *,
    token: Token | None = None,
    transport: httpx.AsyncBaseTransport | None = None,
    **link: Any,
) -> AsyncIterator[RcarSession]:
    """A session that has said nothing yet.

    Args:
        token: ask with this token only, without cookie and handshake.
        link: more of `KbsLink`: ca, timeout_seconds.
    """
    where = KbsLink(url, **{"timeout_seconds": 120, **link})
    async with RcarSession.open(where, guest, token=token, transport=transport) as session:
        yield session


@asynccontextmanager
async def attested(
    url: str, guest: RcarGuest, *tampers: Tamper, **more: Any
) -> AsyncIterator[RcarSession]:
    """A session after its handshake; with tampers it is expected to raise `KbsRefused`."""
    async with connected(url, guest, **more) as session:
        await attest(session, *tampers)
        yield session


async def attest(session: RcarSession, *tampers: Tamper) -> Token:
    """A handshake whose second message is changed on the way."""
    body = await session.answer(await session.auth())
    for tamper in tampers:
        tamper(body)
    return await session.attest(body)


def with_nonce(nonce: str) -> Tamper:
    """Says another nonce than the evidence covers. (Before 0.4.0 it is not said at all.)"""

    def tamper(body: JsonObject) -> None:
        _at(body, "runtime-data")["nonce"] = nonce

    return tamper


def with_key(jwk_said: JsonObject) -> Tamper:
    """Says another key than the evidence covers."""

    def tamper(body: JsonObject) -> None:
        place = _at(body, "runtime-data") if "runtime-data" in body else body
        place["tee-pubkey"] = copy.deepcopy(jwk_said)

    return tamper


def with_additional(text: str) -> Tamper:
    """Says other additional evidence than the primary covers."""

    def tamper(body: JsonObject) -> None:
        _at(body, "tee-evidence")["additional_evidence"] = text

    return tamper


def with_init_data(text: str | None) -> Tamper:
    """Shows other init-data than was measured, or none."""

    def tamper(body: JsonObject) -> None:
        body["init-data"] = None if text is None else {"format": "toml", "body": text}

    return tamper


def with_event_log(log: bytes | None) -> Tamper:
    """Shows another event log than was measured, or none. TDX only."""

    def tamper(body: JsonObject) -> None:
        shown = None if log is None else base64.b64encode(log).decode()
        primary_evidence(body)["cc_eventlog"] = shown

    return tamper


def with_quote(change: Callable[[bytes], bytes]) -> Tamper:
    """Shows a changed quote. TDX only."""

    def tamper(body: JsonObject) -> None:
        evidence = primary_evidence(body)
        quote = change(base64.b64decode(str(evidence["quote"])))
        evidence["quote"] = base64.b64encode(quote).decode()

    return tamper


def primary_evidence(body: JsonObject) -> JsonObject:
    """The primary evidence in a body of `attest` of any version."""
    if "runtime-data" in body:
        return _at(_at(body, "tee-evidence"), "primary_evidence")
    return _at(body, "tee-evidence")


def session_id(session: RcarSession) -> str:
    """The value of the session's cookie."""
    return str(session.cookies[SESSION_COOKIE])


def use_session_id(session: RcarSession, value: str) -> None:
    """Sends another session's cookie, or any text, from now on."""
    session.cookies.clear()
    session.cookies.set(SESSION_COOKIE, value, path="/kbs")


def forged(
    token: Token,
    *,
    header: dict[str, JsonValue] | None = None,
    claims: dict[str, JsonValue] | None = None,
    key: jwk.JWK | None = None,
) -> Token:
    """The token with changes, signed anew by `key`, a P-256 key of the forger's if left out.

    The header's `jwk` becomes the forger's, unless `header` says otherwise: a broker that
    trusts it takes the token.
    """
    signer = key or jwk.JWK.generate(kty="EC", crv="P-256")
    said = {**token.header, **(header or {})}
    if signer.has_public and "jwk" not in (header or {}):
        said["jwk"] = signer.export_public(as_dict=True)
    signed = jws.JWS(_json({**token.claims, **(claims or {})}))
    signed.allowed_algs = ["ES256", "HS256", "EdDSA"]
    signed.add_signature(signer, protected=_json(said))
    return Token.parse(signed.serialize(compact=True))


def unsigned(token: Token, algorithm: str = "none", signature: str = "") -> Token:
    """The token with another `alg` and no signature, or any text for one."""
    said = _json({**token.header, "alg": algorithm}).encode()
    text = f"{to_base64url(said)}.{to_base64url(_json(token.claims).encode())}.{signature}"
    return Token.parse(text)


def keyed_with_public_key(token: Token, public: bytes) -> Token:
    """The token with `alg` HS256, the broker's public key as the secret (RFC 8725, 2.1)."""
    key = jwk.JWK(kty="oct", k=to_base64url(public))
    return forged(token, header={"alg": "HS256"}, key=key)


def _json(value: JsonObject) -> str:
    return json.dumps(value, separators=(",", ":"))


def _at(body: JsonObject, name: str) -> JsonObject:
    found = body[name]
    assert isinstance(found, dict)
    return found
