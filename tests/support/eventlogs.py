"""Boot event logs written by hand: each event, and a whole log of them."""

from __future__ import annotations

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
    return HEADER + b"".join(rows) + b"\xff" * 64


def event(index: int, kind: int, data: bytes, measured: bytes | None = None) -> Event:
    return Event(index, kind, sha384(data if measured is None else measured).digest(), data)


def command_line(text: bytes, index: int = 3) -> Event:
    return event(index, eventlog.EV_IPL, b"kernel_cmdline: " + text + b"\0", text)


def secure_boot(value: bytes, index: int = 1) -> Event:
    name = "SecureBoot".encode("utf-16-le")
    guid = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    data = guid + number(10, 8) + number(len(value), 8) + name + value
    return event(index, eventlog.EV_EFI_VARIABLE_DRIVER_CONFIG, data)
