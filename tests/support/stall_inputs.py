"""The largest input of every type, from every sender, for the measurement of stalls.

Each sender is a coroutine for a loop other than the broker's.
"""

from __future__ import annotations

import asyncio
import base64
import ipaddress
import json
import os
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import grpc
import httpx
from OpenSSL import SSL

from tests.support.broker import KID
from tests.support.eventlogs import command_line, event, written
from tests.support.kbs_admins import AdminTokens, b64url, bearing
from tests.support.kbs_raw import request
from tests.support.keyprovider_client import KeyProviderClient, unwrap_input, wrap_input
from tests.support.rcar_guests import connected, tdx_guest
from verdictd_py._generated import clientapi_pb2 as api
from verdictd_py._generated import clientapi_pb2_grpc as api_services
from verdictd_py._generated import verdictd_v1_pb2 as v1
from verdictd_py._generated import verdictd_v1_pb2_grpc as v1_services
from verdictd_py.errors import VerdictdError
from verdictd_py.formats import proxyheader
from verdictd_py.guest.attesters import SimulatedAttester, guest_context
from verdictd_py.guest.connection import GuestConnection
from verdictd_py.guest.rcar.messages import Version
from verdictd_py.protocols.ratstls.issue import Form
from verdictd_py.simulator import SimulatedPlatform

MIB: Final = 1024 * 1024
PROXY: Final = "127.0.0.2"
HTTP_PROXY: Final = "127.0.0.3"
PROXIES: Final = {"proxy_protocol_from": PROXY, "forwarded_for_from": HTTP_PROXY}
"""Settings of the broker, which name the senders that are proxies."""
TIMEOUT: Final = 120.0
EVENTS: Final = 1000
RESOURCE: Final = "/kbs/v0/resource/default/stalls/1"


@dataclass
class Target:
    """A running broker, as its senders see it.

    Attributes:
        reload: makes the daemon read its files again, as SIGHUP does.
    """

    guests: tuple[str, int]
    kbs: str
    client_api: str
    platform: SimulatedPlatform
    now: datetime
    admins: AdminTokens
    data: Path
    reload: Callable[[], Awaitable[None]]
    created: dict[str, Any] = field(default_factory=dict)

    def context(self, *, endorse: bool = False, garbage: bytes = b"") -> SSL.Context:
        attester = SimulatedAttester(self.platform, endorse=endorse)
        return guest_context(attester, Form.CURRENT, now=self.now, garbage=garbage)


Sender = Callable[[Target], Awaitable[object]]


@dataclass(frozen=True)
class Input:
    """One type of input.

    Attributes:
        size: in bytes, as far as the sender chooses it.
        prepare: called once before; its effects on the broker are not measured.
    """

    sender: str
    name: str
    size: int
    send: Sender
    prepare: Callable[[Target], None] | None = None


async def _tls_garbage(target: Target) -> None:
    reader, writer = await asyncio.open_connection(*target.guests)
    writer.write(b"\x16\x03\x01\x40\x00" + os.urandom(64 * 1024))
    await _until_closed(reader, writer)


async def _small_records(target: Target) -> None:
    """Send TLS records with one byte of plaintext each."""
    async with _guest(target) as guest:
        for byte in json.dumps({"command": "echo", "data": "x" * 12_000}).encode():
            guest._session.write(bytes([byte]))
        await guest._flush()
        await _read_all(guest)


async def _until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        await writer.drain()
        while await reader.read(65_536):
            pass
    writer.close()


def _through_proxy(at_a_time: int) -> Sender:
    """Send the longest header of the PROXY protocol, and then garbage."""
    addresses = ipaddress.ip_address("192.0.2.7").packed * 2 + bytes((18, 103, 1, 187))
    padding = proxyheader.MAX_REST_BYTES - len(addresses) - 3
    rest = addresses + b"\x04" + padding.to_bytes(2, "big") + bytes(padding)
    header = proxyheader.SIGNATURE + b"\x21\x11" + len(rest).to_bytes(2, "big") + rest

    async def send(target: Target) -> None:
        reader, writer = await asyncio.open_connection(*target.guests, local_addr=(PROXY, 0))
        for at in range(0, len(header), at_a_time):
            writer.write(header[at : at + at_a_time])
            await writer.drain()
        writer.write(b"\x16\x03\x01\x00\x01\xff")
        with suppress(OSError):  # the broker may have closed the connection already
            writer.write_eof()
        await _until_closed(reader, writer)

    return send


def _guest(target: Target, **more: Any) -> Any:
    context = target.context(**more)
    return GuestConnection.open(*target.guests, context, timeout_seconds=TIMEOUT)


async def _read_all(guest: GuestConnection, length: int = 1) -> None:
    """Receive so many bytes, or all until the broker closes the connection."""
    received = 0
    with suppress(VerdictdError, OSError):
        while received < length:
            received += len(await asyncio.wait_for(guest._read(), TIMEOUT))


def _certificate(*, endorse: bool, garbage: int) -> Sender:
    async def send(target: Target) -> None:
        with suppress(VerdictdError):  # after an operator's input it is refused
            async with _guest(target, endorse=endorse, garbage=bytes(garbage)) as guest:
                await guest.version()

    return send


def eaa(text: bytes, answers: int = 1) -> Sender:
    async def send(target: Target) -> None:
        async with _guest(target) as guest:
            for at in range(0, len(text), 16_384):
                guest._session.write(text[at : at + 16_384])
                await guest._flush()
            await _read_all(guest, answers)

    return send


def _decrypt(padding: int) -> bytes:
    blob = {
        "kid": KID,
        "encrypted_data": base64.b64encode(bytes(padding)).decode(),
        "algorithm": "AES-GCM",
        "key_length": 256,
        "iv": base64.b64encode(bytes(12)).decode(),
    }
    return json.dumps({"command": "Decrypt", "blobs": [blob] * 64}).encode()


def _event_log() -> bytes:
    data = b"x" * 900
    rows = [event(1 + number % 4, 0x80000007, data) for number in range(EVENTS)]
    return written(*rows, command_line(b"quiet"))


def _init_data() -> str:
    lines = [f'"{number}" = "{"x" * 230}"' for number in range(1000)]
    return 'algorithm = "sha256"\nversion = "0.1.0"\n[data]\n' + "\n".join(lines) + "\n"


def attest(version: Version, *, large: bool = True, denied: bool = False) -> Sender:
    async def send(target: Target) -> None:
        newest = version is Version.V0_4_0
        guest = tdx_guest(
            target.platform,
            version,
            init_data=_init_data() if newest and large else None,
            event_log=_event_log() if large else None,
        )
        async with connected(target.kbs, guest) as session:
            body = await session.answer(await session.auth())
            if denied:
                body["tee-evidence"]["primary_evidence"]["quote"] = "AAAA"  # type: ignore[index,call-overload]
            with suppress(VerdictdError):
                await session.attest(body)
                with suppress(VerdictdError):
                    await session.get("default/key/1")

    return send


def attest_body(body: bytes) -> Sender:
    async def send(target: Target) -> None:
        async with connected(target.kbs, tdx_guest(target.platform)) as session:
            await session.auth()
            await session._http.post("/kbs/v0/attest", content=body, timeout=TIMEOUT)

    return send


async def _resource_with_large_claims(target: Target) -> None:
    if "session" not in target.created:
        guest = tdx_guest(target.platform, init_data=_init_data(), event_log=_event_log())
        async with connected(target.kbs, guest) as session:
            token = await session.handshake()
            target.created["session"] = token.content.reveal().decode()
    await http("GET", "/kbs/v0/resource/default/key/1", token=target.created["session"])(target)


def http(method: str, path: str, body: bytes = b"", *, token: str = "", admin: str = "") -> Sender:
    async def send(target: Target) -> None:
        shown = token or (target.admins.token(admin) if admin else None)
        async with httpx.AsyncClient(base_url=target.kbs, timeout=TIMEOUT) as client:
            answer = await client.request(method, path, content=body, headers=bearing(shown))
            assert answer.status_code < 500, answer.text

    return send


def raw_http(data: bytes, *, sender: str = "127.0.0.1") -> Sender:
    async def send(target: Target) -> None:
        where = urlsplit(target.kbs)
        reader, writer = await asyncio.open_connection(
            where.hostname, where.port, local_addr=(sender, 0)
        )
        writer.write(data)
        with suppress(OSError):
            await writer.drain()
            writer.write_eof()
        await _until_closed(reader, writer)

    return send


def key_provider(method: str, data: bytes) -> Sender:
    async def send(target: Target) -> None:
        async with KeyProviderClient.open(target.client_api) as client:
            with suppress(grpc.RpcError):
                await client.call(method, data)

    return send


def call(service: Callable[[grpc.Channel], Any], method: str, message: Any) -> Sender:
    """Return a sender of one call of the management API.

    Args:
        message: the message, or a function that makes another one for each call.
    """

    async def send(target: Target) -> Any:
        options = [
            ("grpc.max_receive_message_length", -1),
            ("grpc.use_local_subchannel_pool", 1),
        ]
        made = message() if callable(message) else message
        channel = grpc.insecure_channel(target.client_api, options=options)
        with channel, suppress(grpc.RpcError):
            return getattr(service(channel), method)(made, timeout=TIMEOUT)
        return None

    return send


def raw_call(path: str, data: bytes) -> Sender:
    """Return a sender of one call with bytes that are not the message's."""

    async def send(target: Target) -> None:
        with grpc.insecure_channel(target.client_api) as channel:
            method = channel.unary_unary(path, None, None)
            with suppress(grpc.RpcError):
                method(data, timeout=TIMEOUT)

    return send


def _store_keys(target: Target) -> None:
    store_keys(target.data)


def store_keys(data: Path) -> None:
    """Write 5,000 keys into a data directory."""
    for number in range(5000):
        file = data / "keys" / "stalls" / "key" / f"k{number}"
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(bytes(32))


def store_much(data: Path) -> None:
    """Write a data directory that takes long to start with: keys, a policy, reference values."""
    store_keys(data)
    documents = data / "opa"
    documents.mkdir(mode=0o700, exist_ok=True)
    (documents / "tdxPolicy.rego").write_bytes(_policy())
    (documents / "tdxData").write_bytes(_reference(30_000))


async def _reload(target: Target) -> None:
    await target.reload()


def _policy() -> bytes:
    rules = "\n".join(f'rule{number} if input.mrTd == "{number}"' for number in range(2000))
    different = f"# {os.urandom(8).hex()}\n"  # so that nothing about it is cached
    head = "package policy\nimport rego.v1\ndefault allow := false\n"
    return f"{different}{head}{rules}\n".encode()


def _reference(values: int) -> bytes:
    return json.dumps({"mrTd": [f"{number:096x}" for number in range(values)]}).encode()


def _claims() -> bytes:
    events = [{"index": 1, "type": 4, "digest": "ab" * 48}] * 1000
    claims = {"mrTd": "ab" * 48, "eventLog": {"events": events}, "initData": {"x": "y" * 250_000}}
    return json.dumps(claims).encode()


def _varints(count: int) -> bytes:
    """Fields of a message that no version of it has."""
    return b"\xf8\x07\x01" * count


def _many_values(count: int) -> Any:
    accepted = [v1.Accepted(field="mrTd", values=[""] * 10) for _ in range(count // 10)]
    return v1.AddSetRequest(name="a", tee="tdx", values=accepted)


KEYS = v1_services.KeyServiceStub
DOCUMENTS = v1_services.DocumentServiceStub
REFERENCES = v1_services.ReferenceServiceStub
GUESTS = v1_services.AppraisalServiceStub
TESTS = v1_services.PolicyTestServiceStub
STATUS = v1_services.StatusServiceStub

_AUTH: Final = b'{"version":"0.4.0","tee":"tdx","extra-params":"'
_RV: Final = base64.b64encode(json.dumps({"mrTd": ["ab" * 48] * 14_000}).encode()).decode()


def inputs() -> list[Input]:
    """Return every input."""
    array = json.dumps(wrap_input(KID, list(os.urandom(MIB)))).encode()
    packet = {
        "kid": KID,
        "wrapped_data": list(os.urandom(MIB)),
        "iv": [0] * 12,
        "algorithm": "AES",
        "key_length": 256,
    }
    unwrap = json.dumps(unwrap_input(packet)).encode()
    zeros = b"[" + b",".join([b"0"] * 60_000) + b"]"
    many = b'{"command":"version","x":' + zeros + b"}"
    return [
        Input("unattested", "TLS garbage", 64 * 1024, _tls_garbage),
        Input("guest", "certificate", 6_000, _certificate(endorse=False, garbage=0)),
        Input(
            "guest",
            "certificate with endorsements",
            60_000,
            _certificate(endorse=True, garbage=9_000),
        ),
        Input("guest", "TLS records of one byte", 290_000, _small_records),
        Input("guest", "EAA: 64 blobs", MIB, eaa(_decrypt(11_800))),
        Input(
            "guest",
            "EAA: one string",
            MIB,
            eaa(b'{"command":"version","x":"' + b"x" * (MIB - 64) + b'"}'),
        ),
        Input(
            "guest",
            "EAA: escapes",
            MIB,
            eaa(b'{"command":"version","x":"' + rb"\u0041" * (MIB // 6 - 64) + b'"}'),
        ),
        Input(
            "guest",
            "EAA: surrogates",
            MIB,
            eaa(b'{"command":"version","x":"' + rb"\ud83d\ude00" * (MIB // 12 - 64) + b'"}'),
        ),
        Input("guest", "EAA: 60,000 values", 120_000, eaa(many)),
        Input(
            "guest",
            "EAA: 3,000 requests",
            66_000,
            eaa(b'{"command":"version"}' * 3000 + b'{"command":"echo","data":""}', MIB),
        ),
        Input(
            "unattested",
            "auth",
            16_000,
            http("POST", "/kbs/v0/auth", _AUTH + b"x" * 15_900 + b'"}'),
        ),
        *(
            Input(
                "guest", f"attest {version.value}: event log, init-data", 1_700_000, attest(version)
            )
            for version in Version
        ),
        Input(
            "unattested", "attest: refused quote", 1_700_000, attest(Version.V0_4_0, denied=True)
        ),
        Input(
            "unattested",
            "attest: one string",
            2 * MIB,
            attest_body(b'{"runtime-data":"' + b"x" * (2 * MIB - 100) + b'"}'),
        ),
        Input(
            "unattested",
            "attest: surrogates",
            2 * MIB,
            attest_body(b'{"runtime-data":"' + rb"\ud83d\ude00" * (MIB // 6 - 100) + b'"}'),
        ),
        Input(
            "unattested",
            "attest: 16,000 values",
            2 * MIB,
            attest_body(b'{"a":[' + b",".join([b'"%s"' % (b"x" * 120)] * 16_000) + b"]}"),
        ),
        Input("guest", "resource with large claims", 300, _resource_with_large_claims),
        Input(
            "guest",
            "resource with an invalid token",
            60_000,
            http("GET", "/kbs/v0/resource/default/key/1", token="a" * 60_000),
        ),
        Input(
            "unattested",
            "HTTP: cookies",
            8_000,
            raw_http(
                request(
                    "GET",
                    "/kbs/v0/resource/default/key/1",
                    headers={"Cookie": "; ".join(["a=b"] * 1600)},
                )
            ),
        ),
        Input(
            "unattested",
            "HTTP: headers",
            64_000,
            raw_http(request("GET", "/healthz", headers={f"X{n}": "x" * 1000 for n in range(60)})),
        ),
        Input("proxy", "PROXY header", 4_112, _through_proxy(8192)),
        Input("proxy", "PROXY header, a byte at a time", 4_112, _through_proxy(1)),
        Input(
            "proxy",
            "HTTP: X-Forwarded-For",
            60_000,
            raw_http(
                b"GET /healthz HTTP/1.1\r\nHost: x\r\n"
                + (b"X-Forwarded-For: " + b",".join([b"192.0.2.7"] * 98) + b"\r\n") * 60
                + b"\r\n",
                sender=HTTP_PROXY,
            ),
        ),
        Input(
            "unattested",
            "HTTP: 2,000 pipelined",
            80_000,
            raw_http(request("GET", "/healthz") * 2000),
        ),
        Input(
            "administrator",
            "HTTP: resource",
            2 * MIB,
            http("POST", RESOURCE, bytes(2 * MIB - 10), admin="boss"),
        ),
        Input(
            "administrator",
            "HTTP: policy",
            330_000,
            http(
                "POST",
                "/kbs/v0/attestation-policy",
                json.dumps(
                    {"type": "rego", "policy_id": "default", "policy": b64url(_policy())}
                ).encode(),
                admin="boss",
            ),
        ),
        Input(
            "administrator",
            "HTTP: reference values",
            1_960_000,
            http(
                "POST",
                "/kbs/v0/reference-value",
                json.dumps({"version": "0.1.0", "type": "sample", "payload": _RV}).encode(),
                admin="boss",
            ),
        ),
        Input(
            "administrator",
            "HTTP: read reference values",
            100,
            http("GET", "/kbs/v0/reference-value", admin="boss"),
        ),
        Input("local user", "wrap: array of 1 MiB", len(array), key_provider("WrapKey", array)),
        Input(
            "local user", "unwrap: array of 1 MiB", len(unwrap), key_provider("UnWrapKey", unwrap)
        ),
        Input(
            "local user",
            "wrap: one string",
            8_000_000,
            key_provider("WrapKey", b'{"op":"' + b"x" * 8_000_000 + b'"}'),
        ),
        Input(
            "local user",
            "wrap: escapes",
            8_000_000,
            key_provider("WrapKey", b'{"op":"' + rb"\u0041" * 1_330_000 + b'"}'),
        ),
        Input(
            "operator",
            "policy",
            100_000,
            call(
                DOCUMENTS,
                "SetPolicy",
                lambda: v1.SetPolicyRequest(name="tdxPolicy.rego", content=_policy()),
            ),
        ),
        Input(
            "operator",
            "policy: other content",
            8_000_000,
            call(
                DOCUMENTS,
                "SetPolicy",
                v1.SetPolicyRequest(name="tdxPolicy.rego", content=bytes(8_000_000)),
            ),
        ),
        Input(
            "operator",
            "reference data: 30,000 values",
            3_000_000,
            call(
                DOCUMENTS,
                "SetReference",
                v1.SetReferenceRequest(name="tdxData", content=_reference(30_000)),
            ),
        ),
        Input(
            "operator",
            "read reference data",
            100,
            call(REFERENCES, "GetReference", v1.GetReferenceRequest(tee="tdx")),
        ),
        Input(
            "operator",
            "documents",
            100,
            call(DOCUMENTS, "ListDocuments", v1.ListDocumentsRequest()),
        ),
        Input(
            "guest",
            "certificate, with that reference data",
            6_000,
            _certificate(endorse=False, garbage=0),
        ),
        Input("operator", "explain", 100, call(GUESTS, "GetGuest", v1.GetGuestRequest())),
        Input(
            "operator",
            "history",
            100,
            call(GUESTS, "ListGuests", v1.ListGuestsRequest(verdict=v1.VERDICT_ACCEPTED)),
        ),
        Input(
            "operator",
            "history of refusals",
            100,
            call(GUESTS, "ListGuests", v1.ListGuestsRequest(verdict=v1.VERDICT_REFUSED)),
        ),
        Input("operator", "status", 100, call(STATUS, "GetStatus", v1.GetStatusRequest())),
        Input("operator", "SIGHUP", 0, _reload),
        Input(
            "operator",
            "set: 10,000 values",
            1_000_000,
            call(
                REFERENCES,
                "AddSet",
                v1.AddSetRequest(
                    name="a",
                    tee="tdx",
                    values=[v1.Accepted(field="mrTd", values=[f"{n:096x}" for n in range(10_000)])],
                ),
            ),
        ),
        Input(
            "operator",
            "set: 600,000 empty values",
            1_500_000,
            call(REFERENCES, "AddSet", _many_values(600_000)),
        ),
        Input("operator", "sets", 100, call(REFERENCES, "ListSets", v1.ListSetsRequest(tee="tdx"))),
        Input(
            "operator",
            "unknown fields",
            8_000_000,
            raw_call("/verdictd.v1.KeyService/CreateKey", _varints(2_600_000)),
        ),
        Input(
            "operator",
            "resource",
            4_000_000,
            call(
                api_services.ResourceServiceStub,
                "SetResource",
                api.SetResourceRequest(resource_id="default/key/2", content=bytes(4_000_000)),
            ),
        ),
        Input(
            "operator",
            "certificates",
            MIB,
            call(
                api_services.GpgServiceStub,
                "importGpgKey",
                api.ImportGpgKeyRequest(key=os.urandom(MIB - 1)),
            ),
        ),
        Input(
            "operator",
            "image policy",
            MIB,
            call(
                api_services.ImageServiceStub,
                "setImagePolicy",
                api.SetImagePolicyRequest(
                    content=b'{"default":' + zeros + b',"x":"' + b"x" * 3_500_000 + b'"}'
                ),
            ),
        ),
        Input(
            "operator",
            "5,000 keys",
            100,
            call(KEYS, "ListKeys", v1.ListKeysRequest(page_size=1000)),
            _store_keys,
        ),
        Input(
            "operator",
            "policy test",
            400_000,
            call(
                TESTS,
                "TestPolicy",
                v1.TestPolicyRequest(
                    policy="tdxPolicy.rego", policy_content=_policy(), claims=_claims()
                ),
            ),
        ),
        Input(
            "operator",
            "policy check",
            250_000,
            call(
                TESTS,
                "CheckPolicy",
                lambda: v1.CheckPolicyRequest(name="tdxPolicy.rego", content=_policy()),
            ),
        ),
        Input(
            "operator",
            "upstream's policy test",
            400_000,
            call(
                api_services.OpaServiceStub,
                "TestOpa",
                api.TestOpaRequest(
                    policyname=b"a",
                    policylocal=True,
                    policycontent=_policy(),
                    referencename=b"b",
                    referencelocal=True,
                    referencecontent=_reference(10_000),
                    input=_claims(),
                ),
            ),
        ),
    ]
