"""Event log of a guest: the measurements that extended its registers, in order.

Firmware and boot loader write it (CCEL). attestation-agent appends what it measures later, behind a
header of its own if the guest has no CCEL (`runtimeevents`).

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
from verdictd_py.formats import runtimeevents
from verdictd_py.formats.logreader import LogReader

MAX_LOG_BYTES: Final = 1024 * 1024
"""Maximum size of a log. Firmware reserves 256 KiB for it."""

MAX_EVENTS: Final = 1024
"""Maximum number of events; a boot has about a hundred. A policy takes some 40 ms for 1,024
events, while other guests wait, and more than ten times as long for 4,096."""

MAX_REPORTED_EVENTS: Final = 16
"""Maximum number of mismatching events with a reason each: a reason is a line in log and audit."""

RULE: Final = "eventLog"
"""Rule of every reason about the log, and name of the claim with what the log proves."""

_PLATFORM, _FIRMWARE, _LOADER, _RUNTIME = 1, 2, 3, 4
"""Indices of the registers that measure the firmware and its variables, the programs that the
firmware starts, what these programs load, and what the guest measures at run time."""

_SHA384: Final = 0x000C  # TPM_ALG_SHA384
_DIGEST_BYTES: Final = 48
_SIGNATURE: Final = b"Spec ID Event03\0"
_NO_CCEL: Final = bytes(len(_SIGNATURE))  # signature in the header that attestation-agent writes
_ALL_REGISTERS: Final = frozenset((_PLATFORM, _FIRMWARE, _LOADER, _RUNTIME))
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

_MAX_LINE_BYTES: Final = 64 * 1024
"""Maximum length of the claim about the command line. Kernels take at most 4 KiB on x86."""

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
        if self.kind in _DIGEST_OF_DATA or runtimeevents.has_tag(self.kind, self.data):
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
    """Events of one guest, in order.

    Attributes:
        registers: names of the registers that the log extends, by index from 1 on.
        covered: indices of the registers about which the log makes a statement. A log without
            events of the boot makes none about boot registers that it does not extend.
    """

    events: tuple[Event, ...]
    registers: tuple[str, ...]
    covered: frozenset[int] = _ALL_REGISTERS

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
            if index in self.covered and measured.get(name) == replayed
        }
        return EventLog(
            tuple(event for event in self.events if event.index in proved),
            self.registers,
            frozenset(proved),
        )

    def mismatches(
        self, measured: Mapping[str, bytes], *, unlogged: Collection[str] = ()
    ) -> tuple[Reason, ...]:
        """Return why this is not the log of a guest with these registers; empty if it is.

        1. Every register that the log covers must replay to its measured value. 2. Where the
        digest covers the data of an event, it must match.

        Args:
            measured: 48 bytes by register, from a verified quote.
            unlogged: registers that the guest may have extended without log entries.
        """
        return tuple(self._mismatches(measured, unlogged))

    def _mismatches(
        self, measured: Mapping[str, bytes], unlogged: Collection[str]
    ) -> Iterator[Reason]:
        for index, (name, replayed) in enumerate(self.replay().items(), start=1):  # 1
            value = measured.get(name)
            if value == replayed or name in unlogged or index not in self.covered:
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
        if _RUNTIME in self.covered:
            claims |= self._runtime_claims()
        return claims

    def _runtime_claims(self) -> dict[str, JsonValue]:
        """Return the runtime events, and whether they are all that extended their register.

        The type of an event is not measured, so that a guest can give a runtime event another
        type. It is not among the runtime events then, and these are not complete.
        """
        measured = [
            event for event in self.events if event.index == _RUNTIME and event.kind != EV_NO_ACTION
        ]
        proved = [
            each
            for event in measured
            if event.data_proved and (each := runtimeevents.read(event.kind, event.data))
        ]
        return {
            "runtimeEvents": [
                {"domain": each.domain, "operation": each.operation, "content": each.content}
                for each in proved
            ],
            "runtimeEventsComplete": len(proved) == len(measured),
        }


def _command_line(event: Event) -> str | None:
    if event.index != _LOADER or not event.data_proved or len(event.data) > _MAX_LINE_BYTES:
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
    """Read an event log; bytes after its end are ignored.

    The log ends before an area filled with 0xFF or with zeros. A log that was cut this way lacks
    events, and does not replay.

    Args:
        registers: names of the registers that the log extends, by index from 1 on.

    Raises:
        EvidenceFormat: not an event log; the text names the problem and its offset in bytes.
    """
    if len(data) > MAX_LOG_BYTES:
        raise EvidenceFormat(f"the event log is larger than {MAX_LOG_BYTES} bytes")
    reader = LogReader(data)
    sizes, of_boot = _header(reader)
    events: list[Event] = []
    runtime_bytes = 0
    while not reader.at_end:
        if len(events) >= MAX_EVENTS:
            raise reader.problem(f"has more than {MAX_EVENTS} events")
        event = _event(reader, sizes)
        events.append(event)
        if runtimeevents.has_tag(event.kind, event.data):
            runtime_bytes += len(event.data)
        if runtime_bytes > runtimeevents.MAX_TEXT_BYTES:
            limit = runtimeevents.MAX_TEXT_BYTES
            raise reader.problem(f"has more than {limit} bytes of runtime events")
    covered = _ALL_REGISTERS if of_boot else {event.index for event in events} | {_RUNTIME}
    return EventLog(tuple(events), registers, frozenset(covered))


def _header(reader: LogReader) -> tuple[dict[int, int], bool]:
    """Read the first event, a TCG_PCR_EVENT.

    Returns:
        The sizes of digests by algorithm, and whether the log is that of the boot.
    """
    reader.number(4)
    kind = reader.number(4)
    reader.take(20)  # a SHA-1 digest, all zeros
    body = reader.part(reader.number(4))
    signature = body.take(len(_SIGNATURE)) if kind == EV_NO_ACTION else b""
    if signature not in (_SIGNATURE, _NO_CCEL):
        raise EvidenceFormat(
            "the event log does not begin with TCG's header of crypto-agile logs (byte 0)"
        )
    body.take(8)  # platform class, versions, size of UINTN
    count = body.number(4)
    if count > _MAX_DIGESTS:
        raise body.problem(f"names {count} algorithms")
    sizes = {body.number(2): body.number(2) for _ in range(count)}
    if sizes.get(_SHA384) != _DIGEST_BYTES:
        raise body.problem("has no SHA-384 digests")
    return sizes, signature == _SIGNATURE


def _event(reader: LogReader, sizes: dict[int, int]) -> Event:
    index, kind, count = reader.number(4), reader.number(4), reader.number(4)
    if count > _MAX_DIGESTS:
        raise reader.problem(f"has an event with {count} digests")
    digests: dict[int, bytes] = {}
    for _ in range(count):
        algorithm = reader.number(2)
        if algorithm not in sizes or algorithm in digests:
            raise reader.problem(
                f"has an event with two digests of algorithm {algorithm:#x}, "
                "or the log's header does not name it"
            )
        digests[algorithm] = reader.take(sizes[algorithm])
    if _SHA384 not in digests:
        raise reader.problem("has an event without SHA-384 digest")
    return Event(index, kind, digests[_SHA384], reader.take(reader.number(4)))
