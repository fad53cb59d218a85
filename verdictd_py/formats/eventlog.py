"""Boot event log of a guest: the measurements that extended its registers, in order.

Sources: TCG "PC Client Platform Firmware Profile", 10.2 (TCG_PCR_EVENT, TCG_PCR_EVENT2,
TCG_EfiSpecIDEvent); UEFI 2.10, 38.4 (confidential computing event log, CCEL).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha384
from typing import Final

from verdictd_py.encoding import JsonValue
from verdictd_py.errors import EvidenceFormat, Reason, ReasonKind

MAX_LOG_BYTES: Final = 1024 * 1024
"""Maximum size of a log. Firmware reserves 256 KiB for it."""

MAX_EVENTS: Final = 1024
"""Maximum number of events; a boot has about a hundred. A policy takes some 40 ms for 1,024
events, while other guests wait, and more than ten times as long for 4,096."""

MAX_REPORTED_EVENTS: Final = 16
"""Maximum number of mismatching events with a reason each: a reason is a line in log and audit."""

RULE: Final = "eventLog"
"""Rule of every reason about the log, and name of the claim with what the log proves."""

_PLATFORM, _FIRMWARE, _LOADER = 1, 2, 3
"""Indices of the registers that measure the firmware and its variables, the programs that the
firmware starts, and what these programs load."""

_SHA384: Final = 0x000C  # TPM_ALG_SHA384
_DIGEST_BYTES: Final = 48
_SIGNATURE: Final = b"Spec ID Event03\0"
_END: Final = 0xFFFFFFFF  # index in the area after the last event
_MAX_DIGESTS: Final = 16  # in one event; TCG has assigned a handful of algorithms

EV_NO_ACTION: Final = 0x00000003
EV_SEPARATOR: Final = 0x00000004
EV_IPL: Final = 0x0000000D
EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001
EV_EFI_BOOT_SERVICES_APPLICATION: Final = 0x80000003
EV_EFI_GPT_EVENT: Final = 0x80000006
EV_EFI_ACTION: Final = 0x80000007
EV_EFI_VARIABLE_AUTHORITY: Final = 0x800000E0

_DIGEST_OF_DATA: Final = frozenset(
    {
        EV_SEPARATOR,
        EV_EFI_VARIABLE_DRIVER_CONFIG,
        EV_EFI_GPT_EVENT,
        EV_EFI_ACTION,
        EV_EFI_VARIABLE_AUTHORITY,
    }
)
"""Types of events whose digest is that of their whole data."""

_COMMAND_LINE: Final = b"kernel_cmdline: "
_TEXT_PREFIXES: Final = (b"grub_cmd: ", _COMMAND_LINE)
"""Prefixes of EV_IPL data whose digest is that of the text after the prefix, without its NUL."""

_GLOBAL_VARIABLE: Final = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")  # EFI_GLOBAL_VARIABLE


@dataclass(frozen=True, slots=True)
class Event:
    """One measurement.

    Attributes:
        index: the register's index, from 1 on; no log extends register 0 (UEFI 2.10, 38.4).
        kind: TCG's number of the event type.
        digest: the SHA-384 digest that extended the register.
        data: the measured data according to the log; trust it only if `data_proved` is True.
    """

    index: int
    kind: int
    digest: bytes
    data: bytes = field(repr=False)

    @property
    def data_proved(self) -> bool | None:
        """Whether the digest is that of the data; None for types whose digest covers more."""
        if self.kind in _DIGEST_OF_DATA:
            return sha384(self.data).digest() == self.digest
        text = self._measured_text()
        return None if text is None else sha384(text).digest() == self.digest

    def _measured_text(self) -> bytes | None:
        if self.kind == EV_IPL:
            for prefix in _TEXT_PREFIXES:
                if self.data.startswith(prefix):
                    return self.data.removeprefix(prefix).removesuffix(b"\0")
        return None


@dataclass(frozen=True, slots=True)
class EventLog:
    """Events of one boot, in order.

    Attributes:
        registers: names of the registers that the log extends, by index from 1 on.
    """

    events: tuple[Event, ...]
    registers: tuple[str, ...]

    def replay(self) -> dict[str, bytes]:
        """Return the values of the registers after all events: 48 bytes each, by name."""
        registers = dict.fromkeys(self.registers, bytes(_DIGEST_BYTES))
        for event in self.events:
            if event.kind != EV_NO_ACTION and 1 <= event.index <= len(self.registers):
                name = self.registers[event.index - 1]
                registers[name] = sha384(registers[name] + event.digest).digest()
        return registers

    def proved_by(self, measured: Mapping[str, bytes]) -> EventLog:
        """Return the events of the registers whose measured value equals the replayed one.

        The events of any other register prove nothing: the guest may have made them up.

        Args:
            measured: 48 bytes by register, from a verified quote.
        """
        proved = {
            index
            for index, (name, replayed) in enumerate(self.replay().items(), start=1)
            if measured.get(name) == replayed
        }
        return EventLog(
            tuple(event for event in self.events if event.index in proved), self.registers
        )

    def mismatches(
        self, measured: Mapping[str, bytes], *, unlogged: Collection[str] = ()
    ) -> tuple[Reason, ...]:
        """Return why this is not the log of a guest with these registers; empty if it is.

        1. Every register must replay to its measured value. 2. Where the digest covers the
        data of an event, it must match.

        Args:
            measured: 48 bytes by register, from a verified quote.
            unlogged: registers that the guest may have extended without log entries.
        """
        return tuple(self._mismatches(measured, unlogged))

    def _mismatches(
        self, measured: Mapping[str, bytes], unlogged: Collection[str]
    ) -> Iterator[Reason]:
        for name, replayed in self.replay().items():  # 1
            value = measured.get(name)
            if value == replayed or name in unlogged:
                continue
            digits = "" if value is None else value.hex()
            text = f"{name}: the event log replays to {replayed.hex()}, measured {digits}"
            yield Reason(RULE, digits, replayed.hex(), text, kind=ReasonKind.EVENT_LOG)
        mismatching = [
            (number, event)
            for number, event in enumerate(self.events)
            if event.data_proved is False  # 2
        ]
        for number, event in mismatching[:MAX_REPORTED_EVENTS]:
            text = f"event {number} of type {event.kind:#x}: its data is not what was measured"
            yield Reason(RULE, "", event.digest.hex(), text, kind=ReasonKind.EVENT_LOG)
        if unreported := len(mismatching[MAX_REPORTED_EVENTS:]):
            text = f"{unreported} more events whose data is not what was measured"
            yield Reason(RULE, "", "", text, kind=ReasonKind.EVENT_LOG)

    def claims(self) -> dict[str, JsonValue]:
        """Return what a log that is `proved_by` registers proves, as claims.

        A digest proves what was measured, not the type that the log gives it: the guest
        writes the log, so it can give one event the type or the prefix of another, and
        software that runs later can extend a register further. Each claim is therefore taken
        from one register only, and is absent if two events claim it. Pinned registers prove
        more than any of these claims.
        """
        applications: list[JsonValue] = [
            event.digest.hex()
            for event in self.events
            if event.kind == EV_EFI_BOOT_SERVICES_APPLICATION and event.index == _FIRMWARE
        ]
        lines = [text for event in self.events if (text := _command_line(event)) is not None]
        states = [state for event in self.events if (state := _secure_boot(event)) is not None]
        claims: dict[str, JsonValue] = {
            "events": [
                {"index": event.index, "type": event.kind, "digest": event.digest.hex()}
                for event in self.events
                if event.kind != EV_NO_ACTION
            ],
            "efiApplications": applications,
        }
        if applications:
            claims["kernelDigest"] = applications[-1]
        if len(lines) == 1:
            claims["kernelCommandLine"] = lines[0]
        if len(states) == 1:
            claims["secureBoot"] = states[0]
        return claims


def _command_line(event: Event) -> str | None:
    if event.index != _LOADER or not event.data_proved:
        return None
    if event.kind != EV_IPL or not event.data.startswith(_COMMAND_LINE):
        return None
    return event.data.removeprefix(_COMMAND_LINE).removesuffix(b"\0").decode("utf-8", "replace")


def _secure_boot(event: Event) -> bool | None:
    if event.index != _PLATFORM or not event.data_proved:
        return None
    if event.kind != EV_EFI_VARIABLE_DRIVER_CONFIG:
        return None
    value = _variable(event.data, "SecureBoot")
    return None if value is None else value == b"\x01"


def _variable(data: bytes, name: str) -> bytes | None:
    """Read the value of a global EFI variable: GUID, two lengths (u64), name (UTF-16), value.

    Return None for another variable, or if the lengths do not fit the data.
    """
    if data[:16] != _GLOBAL_VARIABLE or len(data) < 32:
        return None
    characters = int.from_bytes(data[16:24], "little")
    size = int.from_bytes(data[24:32], "little")
    encoded = name.encode("utf-16-le")
    if characters * 2 != len(encoded) or data[32 : 32 + len(encoded)] != encoded:
        return None
    value = data[32 + len(encoded) :]
    return value if len(value) == size else None


def parse(data: bytes, registers: tuple[str, ...]) -> EventLog:
    """Read an event log; bytes that firmware left after its end are ignored.

    Args:
        registers: names of the registers that the log extends, by index from 1 on.

    Raises:
        EvidenceFormat: not an event log; the text names the problem.
    """
    if len(data) > MAX_LOG_BYTES:
        raise EvidenceFormat(f"the event log is larger than {MAX_LOG_BYTES} bytes")
    reader = _Reader(data)
    sizes = _header(reader)
    events: list[Event] = []
    while not reader.at_end:
        if len(events) >= MAX_EVENTS:
            raise EvidenceFormat(f"the event log has more than {MAX_EVENTS} events")
        events.append(_event(reader, sizes))
    return EventLog(tuple(events), registers)


def _header(reader: _Reader) -> dict[int, int]:
    """Read the sizes of digests by algorithm from the first event, a TCG_PCR_EVENT."""
    reader.number(4)
    kind = reader.number(4)
    reader.take(20)  # a SHA-1 digest, all zeros
    body = _Reader(reader.take(reader.number(4)))
    if kind != EV_NO_ACTION or body.take(len(_SIGNATURE)) != _SIGNATURE:
        raise EvidenceFormat("the event log does not begin with TCG's header of crypto-agile logs")
    body.take(8)  # platform class, versions, size of UINTN
    count = body.number(4)
    if count > _MAX_DIGESTS:
        raise EvidenceFormat(f"the event log names {count} algorithms")
    sizes = {body.number(2): body.number(2) for _ in range(count)}
    if sizes.get(_SHA384) != _DIGEST_BYTES:
        raise EvidenceFormat("the event log has no SHA-384 digests")
    return sizes


def _event(reader: _Reader, sizes: dict[int, int]) -> Event:
    index, kind, count = reader.number(4), reader.number(4), reader.number(4)
    if count > _MAX_DIGESTS:
        raise EvidenceFormat(f"an event of the log has {count} digests")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.number(2)
        if algorithm not in sizes or algorithm in digests:
            raise EvidenceFormat(
                f"an event of the log has two digests of algorithm {algorithm:#x}, "
                "or the log's header does not name it"
            )
        digests[algorithm] = reader.take(sizes[algorithm])
    if _SHA384 not in digests:
        raise EvidenceFormat("an event of the log has no SHA-384 digest")
    return Event(index, kind, digests[_SHA384], reader.take(reader.number(4)))


class _Reader:
    """Reader of little-endian numbers and bytes that never reads beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        """Whether the last event was read: no data is left, or the next index is `_END`."""
        rest = self._data[self._at : self._at + 4]
        return not rest or (len(rest) == 4 and int.from_bytes(rest, "little") == _END)

    def take(self, size: int) -> bytes:
        taken = self._data[self._at : self._at + size]
        if len(taken) != size:
            raise EvidenceFormat(
                f"the event log ends in the middle of an event, at byte {self._at}"
            )
        self._at += size
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")
