"""Every parser of bytes from outside, with its own errors and its seeds, for fuzzing.

`tools/fuzz.py` changes the seeds at random; `tests/attack/test_parsers.py` runs a fixed number of
such changes.
"""

from __future__ import annotations

import base64
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any, Final

import tests.support.rcar as rcar_support
from tests.support.eventlogs import command_line, event, secure_boot, written
from tests.support.keyprovider_client import unwrap_input, wrap_input
from tests.support.tees import TDX, TEES
from tests.support.vectors import input_file, vector
from verdictd_py import config
from verdictd_py.documents import recorded, referencesets, releasepolicies
from verdictd_py.documents.datanames import data_names
from verdictd_py.documents.reference import ReferenceData
from verdictd_py.domain.evidence import InitData
from verdictd_py.domain.names import ResourcePath
from verdictd_py.domain.secrets import SecretBytes
from verdictd_py.encoding import decode_object
from verdictd_py.errors import (
    AttestationError,
    CollateralUnavailable,
    ConfigError,
    PolicyInvalid,
    ProtocolVersionRefused,
    RequestError,
    TokenInvalid,
    VerdictdError,
)
from verdictd_py.formats import collateral as endorsements
from verdictd_py.formats import contents, eventlog, initdata, proxyheader
from verdictd_py.formats.collateral import Collateral
from verdictd_py.formats.openpgp import SequoiaKeyringEditor
from verdictd_py.guest.rcar.errors import AnswerInvalid
from verdictd_py.guest.rcar.jwe import open_answer
from verdictd_py.guest.rcar.keys import TeeKey as GuestKey
from verdictd_py.guest.rcar.keys import TeeKeyKind
from verdictd_py.guest.rcar.messages import Version as GuestVersion
from verdictd_py.listeners.kbs.files import read_admins
from verdictd_py.listeners.proxies import ForwardedForInvalid, Proxies
from verdictd_py.protocols.eaa import answers as eaa_answers
from verdictd_py.protocols.eaa.conversation import Conversation
from verdictd_py.protocols.keyprovider import parameter, protocol
from verdictd_py.protocols.keyprovider.packet import AnnotationPacket
from verdictd_py.protocols.ratstls import certificate, dice
from verdictd_py.protocols.rcar import evidence as rcar_evidence
from verdictd_py.protocols.rcar import jose, jwe, messages
from verdictd_py.protocols.rcar.teekey import TeeKey
from verdictd_py.protocols.rcar.versions import Version
from verdictd_py.simulator import SimulatedPlatform, collateral_json
from verdictd_py.tees.intel import chains, pck, tcb
from verdictd_py.tees.intel.collateral import answers, check, forms, parts, sources
from verdictd_py.tees.intel.collateral.port import CollateralRequest
from verdictd_py.tees.intel.quote import TDX as TDX_QUOTE
from verdictd_py.tees.intel.quote import Quote, parse_quote
from verdictd_py.tees.sgx import verifier as sgx_verifier
from verdictd_py.tees.tdx import verifier as tdx_verifier

NOW: Final = datetime(2026, 11, 24, 12, tzinfo=UTC)
REGISTERS: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
Errors = tuple[type[Exception], ...]


@dataclass(frozen=True)
class Parser:
    """One parser.

    Attributes:
        read: reads an input of any content.
        errors: the parser's own errors; every other exception is a defect.
        seeds: valid inputs, and invalid ones that reach far.
    """

    read: Callable[[bytes], object]
    errors: Errors
    seeds: Callable[[], Iterable[bytes]]

    def run(self, data: bytes) -> None:
        """Read an input. Its own errors are expected; another exception is raised."""
        try:
            self.read(data)
        except self.errors:
            return


_INIT_DATA = 'version = "1"\nalgorithm = "sha256"\n[data]\n'
_INIT_DATA_JSON = b'{"version": "1", "algorithm": "sha384", "data": {}}'


def vectors(folder: str, suffix: str = "") -> Callable[[], Iterator[bytes]]:
    """Return the seeds in a folder of `tests/vectors`."""
    return lambda: _files(vector(folder), suffix)


def inputs(*names: str) -> Callable[[], Iterator[bytes]]:
    """Return seeds in `tests/inputs`: files, or all files of a folder."""
    return lambda: (data for name in names for data in _files(input_file(name), ""))


def _files(path: Path, suffix: str) -> Iterator[bytes]:
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    for file in files:
        if file.is_file() and file.name.endswith(suffix):
            yield file.read_bytes()


def _quote(data: bytes) -> None:
    quote = parse_quote(data)
    if quote.tee == TDX_QUOTE:
        tdx_verifier.body_claims(quote)
        tdx_verifier.find_faults(quote)
    else:
        sgx_verifier._claims(quote)
    platform = pck.verify_pck_chain(quote.pck_chain, root_key=_root_key(), now=NOW)
    pck.verify_quote_signatures(quote, platform)


@cache
def _root_key() -> bytes:
    return chains.root_key_digest(None)


@cache
def _platform() -> SimulatedPlatform:
    return SimulatedPlatform.create(now=NOW - timedelta(days=1))


@cache
def _collateral() -> Collateral:
    return _platform().collateral(NOW)


def _certificate(data: bytes) -> object:
    return certificate.read(data, TEES, now=NOW)


def _endorsements(data: bytes) -> None:
    read = endorsements.read(data, tag=dice.TCG_TAG)
    check.issued_at(read)


def _dice(data: bytes) -> None:
    read = dice.read_evidence(data, TEES.tags)
    dice.binding_of(read.claims, b"spki")


def _dice_seeds() -> Iterator[bytes]:
    claims = dice.write_claims(dice.write_pubkey_hash(b"spki"), {"nonce": b"n" * 32})
    for tag in (dice.INTERIM_TAG, dice.TCG_TAG):
        yield dice.write_evidence(dice.DiceEvidence(tag, b"quote", claims))
    yield dice.write_evidence(dice.DiceEvidence(dice.INTERIM_TAG, b"quote", None))


def _event_log(data: bytes) -> None:
    log = eventlog.parse(data, REGISTERS)
    log.mismatches({})
    proved = log.proved_by(log.replay())
    json.dumps(proved.claims())


def _event_log_seeds() -> Iterator[bytes]:
    yield written(command_line(b"quiet"), secure_boot(b"\1"), event(1, 0x80000007, b"action"))
    yield from _files(vector("eventlog"), ".bin")
    yield from _files(input_file("ccel-end.bin"), "")


def _init_data(form: str) -> Callable[[bytes], object]:
    return lambda data: initdata.parse(InitData(form, data.decode("utf-8", "surrogateescape")))


def _conversation(data: bytes) -> None:
    """Feed the bytes twice: whole, and in two parts."""
    for split in (len(data), len(data) // 2):
        conversation = Conversation()
        for part in (data[:split], data[split:]):
            conversation.receive(part)
            while (received := conversation.next_request()) is not None:
                received.failure("refused")
                if received.closes:
                    return


def _conversation_seeds() -> Iterator[bytes]:
    requests: list[dict[str, Any]] = [
        {"command": "version"},
        {"command": "echo", "data": "text \\u0041"},
        {"command": "Get KEK", "kids": ["84688df7-2c0c-40fa-956b-29d8e74d16c0"]},
        {"command": "Get Resource Info", "name": "Get Policy"},
        {"command": "Get Resource", "optional": {"resource_path": "default/key/1"}},
        {"command": "Get default/key/1"},
        {
            "command": "Decrypt",
            "blobs": [
                {
                    "kid": "84688df7-2c0c-40fa-956b-29d8e74d16c0",
                    "encrypted_data": "AAAA",
                    "algorithm": "AES-GCM",
                    "key_length": 256,
                    "iv": "AAAAAAAAAAAAAAAA",
                }
            ],
        },
    ]
    for request in requests:
        yield json.dumps(request).encode()
    yield b" \n".join(json.dumps(request).encode() for request in requests)
    yield eaa_answers.version()


def _attest(version: Version) -> Callable[[bytes], object]:
    challenge = messages.Challenge(version, "tdx", rcar_support.NONCE)

    def read(data: bytes) -> object:
        return rcar_evidence.read(messages.parse_attest(data, challenge), TEES)

    return read


def _attest_seeds(version: Version) -> Callable[[], Iterator[bytes]]:
    def seeds() -> Iterator[bytes]:
        key = rcar_support.jwk_of("RSA1_5" if version is Version.V0_1_1 else "P-256")
        quote = base64.b64encode(_platform().quote(bytes(64))).decode()
        log = base64.b64encode(next(_event_log_seeds())).decode()
        evidence = {"quote": quote, "cc_eventlog": log}
        older = {"tee-pubkey": key, "tee-evidence": evidence}
        yield json.dumps(older).encode()
        composite = {"primary_evidence": evidence, "additional_evidence": '{"nvidia": {}}'}
        runtime = {"nonce": rcar_support.NONCE, "tee-pubkey": key}
        newer = {
            "init-data": {"format": "toml", "body": _INIT_DATA},
            "runtime-data": runtime,
            "tee-evidence": composite,
        }
        yield json.dumps(newer).encode()

    return seeds


def _tee_key(data: bytes) -> None:
    jwk = decode_object(data, "the key")
    for version in Version:
        try:
            key = TeeKey.parse(jwk, version)
        except AttestationError:
            continue
        jwe.encrypt(SecretBytes(b"secret"), key, version, random=bytes)


def _tee_key_seeds() -> Iterator[bytes]:
    for kind, _ in rcar_support.KINDS:
        yield json.dumps(rcar_support.jwk_of(kind)).encode()


@cache
def _guest_key() -> GuestKey:
    return GuestKey.new(TeeKeyKind.EC_P256, GuestVersion.V0_4_0)


def _jwe(data: bytes) -> object:
    return open_answer(data, _guest_key(), GuestVersion.V0_4_0)


def _jwe_seeds() -> Iterator[bytes]:
    key = TeeKey.parse(_guest_key().jwk, Version.V0_4_0)
    yield jwe.encrypt(SecretBytes(b"secret"), key, Version.V0_4_0, random=lambda n: b"r" * n)


def _token(data: bytes) -> None:
    """Read the bytes as a token, and as the payload of one that has a valid signature."""
    tokens = rcar_support.tokens()
    with suppress(TokenInvalid):
        tokens.read(data.decode("latin-1"), now=rcar_support.NOW)
    try:
        payload = json.loads(data)
    except (ValueError, RecursionError):
        return
    if isinstance(payload, dict):
        try:
            signed = jose.sign(payload, {}, tokens.key)
        except UnicodeEncodeError:  # halves of surrogate pairs, which this signer cannot write
            return
        tokens.read(signed, now=rcar_support.NOW).guest()


def _token_seeds() -> Iterator[bytes]:
    issued = rcar_support.tokens().issue(
        rcar_support.attested(), now=rcar_support.NOW, policy=rcar_support.POLICY
    )
    yield issued.token.encode()
    claims = jose.verify(issued.token, rcar_support.tokens().key.public_key(), now=rcar_support.NOW)
    yield json.dumps(claims).encode()


@cache
def _scratch() -> Path:
    return Path(tempfile.mkdtemp(prefix="fuzz"))


def _settings(data: bytes) -> object:
    file = _scratch() / "verdictd.toml"
    file.write_bytes(data)
    return config.load({}, file=file)


def _admins(data: bytes) -> object:
    file = _scratch() / "admins.toml"
    file.write_bytes(data)
    return read_admins(file)


def _reference(data: bytes) -> None:
    values = ReferenceData.parse(data.decode("utf-8", "surrogateescape")).values
    TEES.schema(TDX.name).require("tdxData", values, data_names("package policy"))


def _sets(data: bytes) -> None:
    sets = referencesets.parse(data.decode("utf-8", "surrogateescape"))
    referencesets.serialize(sets)


def _collateral_json(data: bytes) -> None:
    for read in forms.collaterals_from_json(data):
        _read_parts(read)
        _rate(read)


def _pcs_answer(data: bytes) -> None:
    """Read a body of a PCCS as TCB info, with the rest from valid collateral."""
    text, signature = answers.signed(data, "tcbInfo")
    collateral = replace(_collateral(), tcb_info=text, tcb_info_signature=signature)
    _read_parts(collateral)
    _rate(collateral)
    _check(collateral)


def _read_parts(collateral: Collateral) -> None:
    """Read collateral as the broker does before and after it verifies signatures."""
    request = _request()
    reads: list[Callable[[], object]] = [
        *(lambda part=part: part.age(collateral) for part in parts.PARTS),
        lambda: check.issued_at(collateral),
        lambda: check.ends_at(collateral),
        lambda: check.require_platform(collateral, request),
        lambda: check.check_fit(collateral, "0000"),
        lambda: tcb.evaluation_number(collateral),
        lambda: sources._index(collateral),
    ]
    for read in reads:
        with suppress(*_COLLATERAL):
            read()


def _check(collateral: Collateral) -> None:
    root = chains.root_key_digest(_platform().root_ca_der)
    check.check_collateral(collateral, _request(), root_key=root, now=NOW)


def _rate(collateral: Collateral) -> None:
    quote, platform = _quote_of_platform()
    rating = tcb.rate(quote, platform, collateral)
    if rating is not None:
        with suppress(ValueError):
            tcb.behind_days(collateral, rating, NOW)


@cache
def _quote_of_platform() -> tuple[Quote, pck.Platform]:
    quote = parse_quote(_platform().quote(bytes(64)))
    root = chains.root_key_digest(_platform().root_ca_der)
    return quote, pck.verify_pck_chain(quote.pck_chain, root_key=root, now=NOW)


def _pcs_seeds() -> Iterator[bytes]:
    yield from _files(vector("pcs-2023"), ".json")
    made = _collateral()
    signature = made.tcb_info_signature.hex()
    yield f'{{"tcbInfo":{made.tcb_info},"signature":"{signature}"}}'.encode()


@cache
def _request() -> CollateralRequest:
    return CollateralRequest("tdx", json.loads(_collateral().tcb_info)["fmspc"].lower(), "platform")


def _crl(data: bytes) -> None:
    collateral = replace(_collateral(), pck_crl=answers.crl(data))
    _read_parts(collateral)
    _check(collateral)


def _crl_seeds() -> Iterator[bytes]:
    yield from _files(vector("pcs-2023"), ".der")
    yield _collateral().pck_crl
    yield _collateral().pck_crl.hex().encode()


def _issuer_chain(data: bytes) -> None:
    _check(replace(_collateral(), pck_crl_issuer_chain=data.decode("latin-1")))


def _collateral_seeds() -> Iterator[bytes]:
    yield collateral_json(_collateral()).encode()
    yield from _files(vector("quotes"), ".json")


def _key_provider(data: bytes) -> None:
    request = protocol.decode(data, provider=None)
    if isinstance(request, protocol.UnwrapRequest):
        AnnotationPacket.decode(request.annotation)


def _key_provider_seeds() -> Iterator[bytes]:
    yield json.dumps(wrap_input("84688df7-2c0c-40fa-956b-29d8e74d16c0")).encode()
    yield json.dumps(wrap_input("Enabled", optsdata=[1, 2, 255])).encode()
    for packet in _packet_seeds():
        yield json.dumps(unwrap_input(json.loads(packet))).encode()


def _packet_seeds() -> Iterator[bytes]:
    kid = "84688df7-2c0c-40fa-956b-29d8e74d16c0"
    yield json.dumps(
        {
            "kid": kid,
            "wrapped_data": [0] * 48,
            "iv": [0] * 12,
            "algorithm": "AES",
            "key_length": 256,
        }
    ).encode()
    yield json.dumps(
        {
            "kid": "kbs:///default/key/1",
            "wrapped_data": "AAAA",
            "iv": "AAAA",
            "wrap_type": "A256GCM",
        }
    ).encode()


def _recorded_seeds() -> Iterator[bytes]:
    yield from _files(input_file("reports"), "")
    yield b'{"mrTd": "00", "debug": false}'


def _openpgp(data: bytes) -> None:
    editor = SequoiaKeyringEditor()
    editor.describe(editor.add(b"", data))


def _content(resource_type: str) -> Callable[[bytes], object]:
    """Return the check of contents of a type, with the keys that they name."""
    path = ResourcePath(("default", resource_type, "test"))

    def parse(data: bytes) -> None:
        contents.check(path, data)
        contents.key_paths(path, data)
        contents.withheld(path.segments, data)
        if resource_type == "credential":
            contents.convert_credential(data)

    return parse


def _proxy_header(data: bytes) -> None:
    fixed = proxyheader.parse_fixed(data[: proxyheader.FIXED_BYTES])
    proxyheader.parse_client(fixed, data[proxyheader.FIXED_BYTES :][: fixed.rest])


def _proxy_header_seeds() -> Iterator[bytes]:
    for family, rest in (b"\x11", bytes(12)), (b"\x21", bytes(36)), (b"\x11", bytes(2)):
        yield proxyheader.SIGNATURE + b"\x21" + family + len(rest).to_bytes(2, "big") + rest
    for fields in b"\x03\x00\x04\x00\x00\x00\x00", b"\x02\x00\x01a\x03\x00\x04\x00\x00\x00\x00":
        rest = bytes(12) + fields
        yield proxyheader.SIGNATURE + b"\x21\x11" + len(rest).to_bytes(2, "big") + rest
    yield proxyheader.SIGNATURE + b"\x20\x00\x00\x00"


def _forwarded_for(data: bytes) -> None:
    proxies = Proxies(forwarded_for=(IPv4Network("10.0.0.0/8"),))
    proxies.forwarded(proxies.peer(("10.0.0.1", 443)), [data.decode("latin-1")])


_REQUEST: Final[Errors] = (RequestError,)
_EVIDENCE: Final[Errors] = (AttestationError,)
_COLLATERAL: Final[Errors] = (AttestationError, CollateralUnavailable, ValueError)

PARSERS: Final[dict[str, Parser]] = {
    "quote": Parser(_quote, _EVIDENCE, vectors("quotes", "quote.bin")),
    "certificate": Parser(_certificate, _EVIDENCE, vectors("rats-tls", ".der")),
    "dice": Parser(_dice, _EVIDENCE, _dice_seeds),
    "endorsements": Parser(
        _endorsements,
        _EVIDENCE,
        lambda: [endorsements.write(_collateral(), tag=dice.TCG_TAG)],
    ),
    "eventlog": Parser(_event_log, _EVIDENCE, _event_log_seeds),
    "initdata-toml": Parser(_init_data("toml"), _EVIDENCE, inputs("initdata")),
    "initdata-json": Parser(_init_data("json"), _EVIDENCE, lambda: [_INIT_DATA_JSON]),
    "eaa": Parser(_conversation, (), _conversation_seeds),
    "rcar-auth": Parser(
        messages.parse_auth,
        (RequestError, ProtocolVersionRefused),
        lambda: [b'{"version":"0.4.0","tee":"tdx","extra-params":""}'],
    ),
    **{
        f"rcar-attest-{version}": Parser(
            _attest(version), (RequestError, AttestationError), _attest_seeds(version)
        )
        for version in Version
    },
    "tee-key": Parser(_tee_key, _REQUEST, _tee_key_seeds),
    "jwe": Parser(_jwe, (AnswerInvalid,), _jwe_seeds),
    "token": Parser(_token, (TokenInvalid, AttestationError), _token_seeds),
    "settings-toml": Parser(
        _settings, (ConfigError,), lambda: [b'listen = "127.0.0.1:1"\nverifier = ["tdx"]\n']
    ),
    "admins-toml": Parser(
        _admins,
        (ConfigError,),
        lambda: [b'[[key]]\nname = "a"\npublic_key = "a.pem"\nroles = ["admin"]\n'],
    ),
    "reference": Parser(
        _reference,
        (PolicyInvalid,),
        lambda: [input_file("rego-data.json").read_bytes(), b'{"mrTd": ["00"], "minSvn": 1}'],
    ),
    "sets": Parser(
        _sets,
        _REQUEST,
        lambda: [
            b'{"tdx": {"a": {"values": {"mrTd": ["00"]}, "addedAt": "2026-11-24T12:00:00+00:00"}}}'
        ],
    ),
    "release-policies": Parser(
        lambda data: releasepolicies.parse(data.decode("utf-8", "replace")),
        _REQUEST,
        lambda: [b'{"keys/team-a/": "teamA.rego"}'],
    ),
    "policy-names": Parser(
        lambda data: data_names(data.decode("utf-8", "replace")), (), inputs("rego")
    ),
    "recorded": Parser(
        lambda data: recorded.read_recorded(data, "the file"), _REQUEST, _recorded_seeds
    ),
    "collateral": Parser(_collateral_json, (ValueError,), _collateral_seeds),
    "pcs-answer": Parser(_pcs_answer, _COLLATERAL, _pcs_seeds),
    "crl": Parser(_crl, _COLLATERAL, _crl_seeds),
    "issuer-chain": Parser(
        _issuer_chain, _COLLATERAL, lambda: [_collateral().pck_crl_issuer_chain.encode()]
    ),
    "keyprovider": Parser(_key_provider, _REQUEST, _key_provider_seeds),
    "packet": Parser(AnnotationPacket.decode, _REQUEST, _packet_seeds),
    "parameter": Parser(
        parameter.parse,
        _REQUEST,
        lambda: [b"Enabled", b"keyid=kbs:///default/key/1::algorithm=A256GCM"],
    ),
    "image-policy": Parser(
        _content("security-policy"),
        (),
        inputs("policy-distro-default.json", "policy-fulcio.json", "policy-short-name.json"),
    ),
    "credential": Parser(_content("credential"), (), inputs("auth")),
    "lookaside": Parser(_content("sigstore-config"), (), inputs("sigstore")),
    "cosign-key": Parser(_content("cosign-public-key"), (), inputs("cosign")),
    "openpgp": Parser(_openpgp, (VerdictdError,), inputs("gpg")),
    "proxy-header": Parser(_proxy_header, (proxyheader.ProxyHeaderInvalid,), _proxy_header_seeds),
    "forwarded-for": Parser(
        _forwarded_for,
        (ForwardedForInvalid,),
        lambda: [b"192.0.2.1, 10.0.0.2", b"[2001:db8::1]:443", b"fe80::1%eth0, 10.0.0.1:80"],
    ),
}
"""Every parser by name."""
