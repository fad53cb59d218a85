"""Boot event logs written by hand: each event, and a whole log of them."""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha384

from verdictd_py.formats import eventlog
from verdictd_py.formats.eventlog import Event


def number(value: int, size: int = 4) -> bytes:
    return value.to_bytes(size, "little")


HEADER_BODY = (
    b"Spec ID Event03\0" + bytes(8) + number(1) + number(0x0C, 2) + number(48, 2) + number(0, 1)
)


HEADER = number(0) + number(3) + bytes(20) + number(len(HEADER_BODY)) + HEADER_BODY


def written(*events: Event) -> bytes:
    """A log as firmware writes it, with reserved space behind."""
    return HEADER + _rows(events) + b"\xff" * 64


def without_ccel(*events: Event, more: bytes = b"") -> bytes:
    """Return the log of attestation-agent in a guest without CCEL.

    Args:
        more: further algorithms in its header, with their sizes.
    """
    algorithms = number(0x0C, 2) + number(48, 2) + more
    body = bytes(24) + number(len(algorithms) // 4) + algorithms + b"\0"
    header = number(0) + number(3) + bytes(20) + number(len(body)) + body
    return header + _rows(events) + b"\xff" * 8


def _rows(events: Iterable[Event]) -> bytes:
    rows = [
        number(each.index)
        + number(each.kind)
        + number(1)
        + number(0x0C, 2)
        + each.digest
        + number(len(each.data))
        + each.data
        for each in events
    ]
    return b"".join(rows)


def event(index: int, kind: int, data: bytes, measured: bytes | None = None) -> Event:
    return Event(index, kind, sha384(data if measured is None else measured).digest(), data)


def command_line(text: bytes, index: int = 3) -> Event:
    return event(index, eventlog.EV_IPL, b"kernel_cmdline: " + text + b"\0", text)


def secure_boot(value: bytes, index: int = 1) -> Event:
    name = "SecureBoot".encode("utf-16-le")
    guid = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    data = guid + number(10, 8) + number(len(value), 8) + name + value
    return event(index, eventlog.EV_EFI_VARIABLE_DRIVER_CONFIG, data)


def pull_image(image: str) -> Event:
    """Return the runtime event for an image that confidential-data-hub pulled."""
    digest = sha384(image.encode()).hexdigest()[:64]
    text = (
        "github.com/confidential-containers PullImage "
        f'{{"image":"{image}", "digest":"sha256:{digest}"}}'
    ).encode()
    return event(4, 6, b"LEAA" + number(len(text)) + text)
