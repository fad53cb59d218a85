"""A guest's boot event log: what was measured into its registers, one after the other.

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
"""The area that firmware reserves is 256 KiB."""

MAX_EVENTS: Final = 1024
"""A boot has some hundred. A policy that is shown as many takes some 40 ms, and everybody
else waits; for four times as many it takes more than ten times as long."""

MAX_TOLD_EVENTS: Final = 16
"""Of those that are not what was measured: each is a line for the log and the audit trail."""

RULE: Final = "eventLog"
"""Of every refusal for the log, and the claim with what it proves."""

_OF_PLATFORM, _OF_FIRMWARE, _OF_LOADER = 1, 2, 3
"""Indices of registers: the firmware with its variables, what it starts, what that loads."""

_SHA384: Final = 0x000C  # TPM_ALG_SHA384
_DIGEST_BYTES: Final = 48
_SIGNATURE: Final = b"Spec ID Event03\0"
_END: Final = 0xFFFFFFFF  # index of the area behind the last event
_MAX_DIGESTS: Final = 16  # of one event; TCG has assigned a handful of algorithms

EV_NO_ACTION: Final = 0x00000003
EV_SEPARATOR: Final = 0x00000004
EV_IPL: Final = 0x0000000D
EV_EFI_VARIABLE_DRIVER_CONFIG: Final = 0x80000001
EV_EFI_BOOT_SERVICES_APPLICATION: Final = 0x80000003
EV_EFI_GPT_EVENT: Final = 0x80000006
EV_EFI_ACTION: Final = 0x80000007
EV_EFI_VARIABLE_AUTHORITY: Final = 0x800000E0

_PROVED_WHOLE: Final = frozenset(
    {
        EV_SEPARATOR,
        EV_EFI_VARIABLE_DRIVER_CONFIG,
        EV_EFI_GPT_EVENT,
        EV_EFI_ACTION,
        EV_EFI_VARIABLE_AUTHORITY,
    }
)
"""Types whose digest is that of their data as it stands."""

_COMMAND_LINE: Final = b"kernel_cmdline: "
_PROVED_BEHIND: Final = (b"grub_cmd: ", _COMMAND_LINE)
"""Beginnings of EV_IPL data whose digest is that of the text behind it, without its NUL."""

_GLOBAL_VARIABLE: Final = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")  # EFI_GLOBAL_VARIABLE


@dataclass(frozen=True, slots=True)
class Event:
    """One measurement.

    Attributes:
        index: of the register, from 1 on; no log extends register 0 (UEFI 2.10, 38.4).
        kind: TCG's number of the type.
        digest: SHA-384, what the register was extended with.
        data: what the log says was measured; proved only where `data_proved` says so.
    """

    index: int
    kind: int
    digest: bytes
    data: bytes = field(repr=False)

    @property
    def data_proved(self) -> bool | None:
        """Whether the digest is that of the data; None for types where nobody can tell."""
        if self.kind in _PROVED_WHOLE:
            return sha384(self.data).digest() == self.digest
        text = self._text_behind()
        return None if text is None else sha384(text).digest() == self.digest

    def _text_behind(self) -> bytes | None:
        if self.kind == EV_IPL:
            for beginning in _PROVED_BEHIND:
                if self.data.startswith(beginning):
                    return self.data.removeprefix(beginning).removesuffix(b"\0")
        return None


@dataclass(frozen=True, slots=True)
class EventLog:
    """The events of one boot, in their order.

    Attributes:
        registers: names of the registers that it extends, by index from 1 on.
    """

    events: tuple[Event, ...]
    registers: tuple[str, ...]

    def replay(self) -> dict[str, bytes]:
        """What the registers are after all events: 48 bytes each, by name."""
        registers = dict.fromkeys(self.registers, bytes(_DIGEST_BYTES))
        for event in self.events:
            if event.kind != EV_NO_ACTION and 1 <= event.index <= len(self.registers):
                name = self.registers[event.index - 1]
                registers[name] = sha384(registers[name] + event.digest).digest()
        return registers

    def proved_by(self, measured: Mapping[str, bytes]) -> EventLog:
        """The events of registers that replay: of any other, anybody could have written them."""
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
        """Why this log is not that of a guest with these registers; empty: it is.

        1. Every register replays. 2. Every event whose data can be proved has the data that
        its digest says.

        Args:
            measured: 48 bytes by register, out of a verified quote.
            unlogged: registers that the guest may have extended without log entries.
        """
        return tuple(self._mismatches(measured, unlogged))

    def _mismatches(
        self, measured: Mapping[str, bytes], unlogged: Collection[str]
    ) -> Iterator[Reason]:
        for name, replayed in self.replay().items():  # 1
            found = measured.get(name)
            if found == replayed or name in unlogged:
                continue
            shown = "" if found is None else found.hex()
            text = f"{name}: the event log replays to {replayed.hex()}, measured {shown}"
            yield Reason(RULE, shown, replayed.hex(), text, kind=ReasonKind.EVENT_LOG)
        others = [each for each in enumerate(self.events) if each[1].data_proved is False]  # 2
        for number, event in others[:MAX_TOLD_EVENTS]:
            text = f"event {number} of type {event.kind:#x}: its data is not what was measured"
            yield Reason(RULE, "", event.digest.hex(), text, kind=ReasonKind.EVENT_LOG)
        if left := len(others[MAX_TOLD_EVENTS:]):
            text = f"{left} more events whose data is not what was measured"
            yield Reason(RULE, "", "", text, kind=ReasonKind.EVENT_LOG)

    def claims(self) -> dict[str, JsonValue]:
        """What the log proves, once it is `proved_by` registers; data only of events that prove it.

        A digest proves what was measured, never what the log calls it: whoever writes the
        log can give one event the type or the prefix of another, and what runs later can
        extend a register further. So each claim is taken from its own register, and is
        absent where two events claim it. Pinned registers prove more than any of these.
        """
        applications: list[JsonValue] = [
            event.digest.hex()
            for event in self.events
            if event.kind == EV_EFI_BOOT_SERVICES_APPLICATION and event.index == _OF_FIRMWARE
        ]
        lines = [text for event in self.events if (text := _command_line(event)) is not None]
        states = [state for event in self.events if (state := _secure_boot(event)) is not None]
        found: dict[str, JsonValue] = {
            "events": [
                {"index": event.index, "type": event.kind, "digest": event.digest.hex()}
                for event in self.events
                if event.kind != EV_NO_ACTION
            ],
            "efiApplications": applications,
        }
        if applications:
            found["kernelDigest"] = applications[-1]
        if len(lines) == 1:
            found["kernelCommandLine"] = lines[0]
        if len(states) == 1:
            found["secureBoot"] = states[0]
        return found


def _command_line(event: Event) -> str | None:
    if event.index != _OF_LOADER or not event.data_proved:
        return None
    if event.kind != EV_IPL or not event.data.startswith(_COMMAND_LINE):
        return None
    return event.data.removeprefix(_COMMAND_LINE).removesuffix(b"\0").decode("utf-8", "replace")


def _secure_boot(event: Event) -> bool | None:
    if event.index != _OF_PLATFORM or not event.data_proved:
        return None
    if event.kind != EV_EFI_VARIABLE_DRIVER_CONFIG:
        return None
    value = _variable(event.data, "SecureBoot")
    return None if value is None else value == b"\x01"


def _variable(data: bytes, name: str) -> bytes | None:
    """Value of a global EFI variable: GUID, two lengths (u64), name (UTF-16), value."""
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
    """Read an event log; what firmware left behind its end is ignored.

    Args:
        registers: names of the registers that it extends, by index from 1 on.

    Raises:
        EvidenceFormat: it is none; the text says where.
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
    """Sizes of digests by algorithm, from the first event, which has the old form."""
    reader.number(4)
    kind = reader.number(4)
    reader.take(20)  # SHA-1 of nothing
    body = _Reader(reader.take(reader.number(4)))
    if kind != EV_NO_ACTION or body.take(len(_SIGNATURE)) != _SIGNATURE:
        raise EvidenceFormat("the event log is not crypto-agile: it does not begin as TCG says")
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
            raise EvidenceFormat(f"an event has a digest of algorithm {algorithm:#x}, or two")
        digests[algorithm] = reader.take(sizes[algorithm])
    if _SHA384 not in digests:
        raise EvidenceFormat("an event of the log has no SHA-384 digest")
    return Event(index, kind, digests[_SHA384], reader.take(reader.number(4)))


class _Reader:
    """Little-endian numbers and bytes, never beyond the end."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def at_end(self) -> bool:
        """Whether the last event was read: the data ends, or the index says so."""
        rest = self._data[self._at : self._at + 4]
        return not rest or (len(rest) == 4 and int.from_bytes(rest, "little") == _END)

    def take(self, size: int) -> bytes:
        found = self._data[self._at : self._at + size]
        if len(found) != size:
            raise EvidenceFormat(f"the event log ends in the middle of an event, at {self._at}")
        self._at += size
        return found

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size), "little")
