"""An attested channel taken by its bytes: what is sent in which record, and what comes back."""

from __future__ import annotations

import asyncio
import base64
import json
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from OpenSSL import SSL

from tests.support.broker import KEY, KID, RunningBroker
from tests.support.clock import elapse_until
from verdictd_py.errors import VerdictdError
from verdictd_py.guest.connection import GuestConnection

VERSIONS: Final = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}


def only(context: SSL.Context, version: str) -> SSL.Context:
    """`context`, which now speaks one version of TLS."""
    context.set_min_proto_version(VERSIONS[version])
    context.set_max_proto_version(VERSIONS[version])
    return context


def encoded(request: dict[str, Any]) -> bytes:
    return json.dumps(request, separators=(",", ":")).encode()


def blob(kid: str, ciphertext: bytes, iv: bytes, algorithm: str) -> dict[str, Any]:
    """One entry of `blobs` in a `Decrypt` request."""
    return {
        "kid": kid,
        "encrypted_data": base64.b64encode(ciphertext).decode(),
        "algorithm": algorithm,
        "key_length": 256,
        "iv": base64.b64encode(iv).decode(),
    }


def store(broker: RunningBroker, path: str, content: bytes) -> None:
    """Writes a file of the data directory by hand, as an operator may."""
    file = broker.data / path
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    file.write_bytes(content)


async def send_records(guest: GuestConnection, *records: bytes) -> None:
    """Sends each as one TLS write, and each in a segment of its own where TCP allows."""
    for record in records:
        guest._session.write(record)
        await guest._flush()


async def records(guest: GuestConnection, length: int) -> list[bytes]:
    """Records of plaintext until `length` bytes are there."""
    found: list[bytes] = []
    while sum(map(len, found)) < length:
        found.append(await guest._read())
    return found


async def ask(guest: GuestConnection, request: dict[str, Any] | bytes) -> dict[str, Any]:
    """The JSON answer to one request, whichever it is."""
    await send_records(guest, request if isinstance(request, bytes) else encoded(request))
    return await answer(guest)


async def answer(guest: GuestConnection) -> dict[str, Any]:
    """The next answer, which is JSON in one record."""
    found = json.loads(await guest._read())
    assert isinstance(found, dict)
    return found


async def answer_to_silence(guest: GuestConnection) -> dict[str, Any]:
    """The refusal of a guest that sends nothing; the broker waits for its request for a while."""
    reading = asyncio.ensure_future(answer(guest))
    await elapse_until(reading.done)
    return await reading


async def rest(guest: GuestConnection) -> bytes:
    """Everything the broker still says until it hangs up."""
    found = b""
    with suppress(VerdictdError, ConnectionError):
        while True:
            found += await guest._read()
    return found


async def refusal(guest: GuestConnection) -> bytes:
    """Everything that a refused guest receives for its first request, which is not `version`."""
    with suppress(VerdictdError, OSError):
        await send_records(guest, encoded({"command": "Get KEK", "kids": [KID]}))
    return await rest(guest)


async def nothing_stays(broker: RunningBroker) -> None:
    """Waits until the listener holds no connection."""
    while tasks := broker.attested._tasks:
        await asyncio.wait(tasks)


def assert_no_secret(broker: RunningBroker) -> None:
    """No event holds the key in any form, nor does the audit trail or anything else on disk."""
    forms = (KEY.decode().strip(), base64.b64encode(KEY).decode(), str(list(KEY)), KEY.hex())
    audit = "".join(
        file.read_text() for file in Path(broker.data / "audit").glob("*.jsonl") if file.is_file()
    )
    for form in forms:
        assert form not in broker.events.text
        assert form not in audit


async def still_serves(broker: RunningBroker) -> None:
    """A good guest gets the key, then nothing is left and nothing has leaked."""
    await nothing_stays(broker)
    async with broker.guest() as guest:
        assert (await guest.keks([KID]))[KID].reveal() == KEY
    await nothing_stays(broker)
    assert_no_secret(broker)
