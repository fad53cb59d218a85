"""Boot event logs: a real one replays; every change is detected, or proves nothing."""

from __future__ import annotations

from hashlib import sha384

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.eventlogs import (
    HEADER,
    command_line,
    event,
    number,
    pull_image,
    secure_boot,
    without_ccel,
    written,
)
from tests.support.vectors import input_file, vector
from verdictd_py.errors import EvidenceFormat, ReasonKind
from verdictd_py.formats import eventlog, runtimeevents
from verdictd_py.formats.eventlog import Event, EventLog, parse
from verdictd_py.tees.tdx.tee import REGISTERS

RTMR0 = 376  # offset of RTMR0 in a v4 quote (tdx.md)


@pytest.fixture(scope="module")
def real() -> tuple[bytes, dict[str, bytes]]:
    """Return a log, and the registers of the quote that was generated after it."""
    quote = vector("eventlog/quote.bin").read_bytes()
    registers = {
        name: quote[RTMR0 + 48 * index : RTMR0 + 48 * (index + 1)]
        for index, name in enumerate(REGISTERS)
    }
    return vector("eventlog/ccel.bin").read_bytes(), registers


def test_a_real_log_replays(real: tuple[bytes, dict[str, bytes]]) -> None:
    data, registers = real
    log = parse(data, REGISTERS)
    assert len(log.events) == 43
    assert log.replay() == registers
    assert log.mismatches(registers) == ()
    claims = log.claims()
    assert claims["secureBoot"] is False
    assert str(claims["kernelCommandLine"]).startswith("/syslinux/vmlinuz.A init=")
    assert len(str(claims["kernelDigest"])) == 96


def test_a_register_that_does_not_replay_is_named(real: tuple[bytes, dict[str, bytes]]) -> None:
    data, registers = real
    log = parse(data, REGISTERS)
    for name in registers:
        (reason,) = log.mismatches({**registers, name: b"\x02" * 48})
        assert (reason.rule, reason.measured) == ("eventLog", "02" * 48)
        assert reason.text.startswith(f"{name}: ")
        assert reason.expected == registers[name].hex()
    changed = {**registers, "rtmr3": b"\x01" * 48}
    assert log.mismatches(changed, unlogged=("rtmr3",)) == ()
    assert len(log.mismatches({})) == 4


def test_every_change_of_an_event_is_detected(real: tuple[bytes, dict[str, bytes]]) -> None:
    """The log does not replay after a change of a digest, of the order or of the number."""
    data, registers = real
    events = parse(data, REGISTERS).events
    for place, each in enumerate(events):
        other = Event(each.index, each.kind, sha384(each.digest).digest(), each.data)
        assert EventLog((*events[:place], other, *events[place + 1 :]), REGISTERS).mismatches(
            registers
        )
        assert EventLog((*events[:place], *events[place + 1 :]), REGISTERS).mismatches(registers)
        assert EventLog((*events[:place], each, *events[place:]), REGISTERS).mismatches(registers)
        if each.data_proved is not None:  # data that is not what was measured
            lie = Event(each.index, each.kind, each.digest, each.data + b"x")
            reasons = EventLog((*events[:place], lie, *events[place + 1 :]), REGISTERS).mismatches(
                registers
            )
            assert [reason.rule for reason in reasons] == ["eventLog"]


def test_the_number_of_reasons_is_limited() -> None:
    """Reasons are logged, audited and stored, and a guest chooses the number of events."""
    log = EventLog((event(1, 4, b"data", b"other"),) * eventlog.MAX_EVENTS, REGISTERS)
    reasons = log.mismatches(log.replay())
    told = eventlog.MAX_REPORTED_EVENTS
    assert len(reasons) == told + 1
    assert {reason.rule for reason in reasons} == {"eventLog"}
    assert reasons[-1].text == (
        f"{eventlog.MAX_EVENTS - told} more events whose data is not what was measured"
    )
    few = EventLog(log.events[:told], REGISTERS)
    assert len(few.mismatches(few.replay())) == told


@pytest.mark.parametrize(
    "kind", [0x4, 0x80000001, 0x80000006, 0x80000007, 0x800000E0], ids=lambda kind: f"{kind:#x}"
)
def test_data_of_these_types_is_proved_by_its_digest(kind: int) -> None:
    assert event(1, kind, b"data").data_proved is True
    assert event(1, kind, b"data", b"other").data_proved is False
    assert event(1, 0xA, b"data").data_proved is None


def test_the_text_after_a_prefix_is_proved_without_its_nul() -> None:
    for prefix in (b"grub_cmd: ", b"kernel_cmdline: "):
        assert event(3, eventlog.EV_IPL, prefix + b"x\0", b"x").data_proved is True
        assert event(3, eventlog.EV_IPL, prefix + b"x\0", b"y").data_proved is False
    assert event(3, eventlog.EV_IPL, b"something", b"x").data_proved is None


def test_each_claim_is_read_from_one_register_only() -> None:
    """Software that runs later can extend a register with anything, under any name."""
    good = (command_line(b"good"), secure_boot(b"\x01"))
    claims = EventLog(good, REGISTERS).claims()
    assert (claims["kernelCommandLine"], claims["secureBoot"]) == ("good", True)
    elsewhere = (command_line(b"good", 4), secure_boot(b"\x01", 4))
    assert not {"kernelCommandLine", "secureBoot"} & EventLog(elsewhere, REGISTERS).claims().keys()
    twice = (*good, command_line(b"bad"), secure_boot(b"\x00"))
    assert not {"kernelCommandLine", "secureBoot"} & EventLog(twice, REGISTERS).claims().keys()
    application = event(4, eventlog.EV_EFI_BOOT_SERVICES_APPLICATION, b"kernel")
    assert "kernelDigest" not in EventLog((application,), REGISTERS).claims()
    unproved = event(3, eventlog.EV_IPL, b"kernel_cmdline: good\0", b"bad")
    assert "kernelCommandLine" not in EventLog((unproved,), REGISTERS).claims()


@pytest.mark.parametrize("value", [b"", b"\x00", b"\x02", b"\x01\x00"])
def test_secure_boot_is_on_only_if_its_value_is_one(value: bytes) -> None:
    """Firmware measures a variable that is not set as an empty value."""
    assert EventLog((secure_boot(value),), REGISTERS).claims()["secureBoot"] is False


def test_secure_boot_is_read_from_the_global_variable_only() -> None:
    good = secure_boot(b"\x01")
    for place in (0, 15):  # the GUID of the vendor
        data = bytearray(good.data)
        data[place] ^= 1
        other = event(good.index, good.kind, bytes(data))
        assert other.data_proved
        assert "secureBoot" not in EventLog((other,), REGISTERS).claims()


@pytest.mark.parametrize("size", [0, 2, 2**63])
def test_a_variable_with_a_wrong_size_is_not_read(size: int) -> None:
    good = secure_boot(b"\x01")
    other = event(good.index, good.kind, good.data[:24] + number(size, 8) + good.data[32:])
    assert other.data_proved
    assert "secureBoot" not in EventLog((other,), REGISTERS).claims()


def test_an_event_without_action_extends_no_register() -> None:
    informative = event(1, eventlog.EV_NO_ACTION, b"StartupLocality")
    boot = (secure_boot(b"\x01"), command_line(b"x"))
    log = EventLog((boot[0], informative, boot[1]), REGISTERS)
    assert log.replay() == EventLog(boot, REGISTERS).replay()
    assert log.mismatches(EventLog(boot, REGISTERS).replay()) == ()
    assert log.claims()["events"] == EventLog(boot, REGISTERS).claims()["events"]


def test_a_written_log_is_read() -> None:
    events = (command_line(b"x"), secure_boot(b"\x01"), event(2, 0xA, b""))
    assert parse(written(*events), REGISTERS).events == events
    assert parse(HEADER, REGISTERS).events == ()


ROW = number(1) + number(4) + number(1) + number(0x0C, 2) + bytes(48)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(64),
        HEADER[:-1],
        HEADER.replace(b"Event03", b"Event02"),
        HEADER.replace(number(48, 2), number(32, 2)),
        HEADER + ROW,
        HEADER + ROW + number(0xFFFFFFF0),
        HEADER + number(1) + number(4) + number(0),
        HEADER + number(1) + number(4) + number(17),
        HEADER + number(1) + number(4) + number(1) + number(0x0B, 2) + bytes(36),
        HEADER + number(1) + number(4) + number(2) + (number(0x0C, 2) + bytes(48)) * 2 + number(0),
        written(*[event(1, 4, b"")] * (eventlog.MAX_EVENTS + 1)),
        bytes(eventlog.MAX_LOG_BYTES + 1),
    ],
)
def test_malformed_logs_are_refused(data: bytes) -> None:
    with pytest.raises(EvidenceFormat):
        parse(data, REGISTERS)


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (HEADER[:-1], "ends in the middle of an event, at byte 32"),
        (HEADER + ROW, f"ends in the middle of an event, at byte {len(HEADER + ROW)}"),
        (HEADER + ROW + b"\1\0\0\0", "ends in the middle of an event, at byte 131"),
        (HEADER + number(1) + number(4) + number(17), "an event with 17 digests, at byte 77"),
        (HEADER + number(1) + number(4) + number(0), "without SHA-384 digest, at byte 77"),
        (HEADER.replace(number(48, 2), number(32, 2)), "no SHA-384 digests, at byte 64"),
        (b"\1" + bytes(63), "does not begin with TCG's header of crypto-agile logs (byte 0)"),
    ],
)
def test_an_error_names_the_offset(data: bytes, problem: str) -> None:
    with pytest.raises(EvidenceFormat) as refused:
        parse(data, REGISTERS)
    assert problem in str(refused.value)


# The area after the last event.


def test_a_log_filled_with_zeros_equals_the_log_filled_with_ones() -> None:
    logs = [
        parse(input_file(f"ccel-{name}.bin").read_bytes(), REGISTERS)
        for name in ("end", "ff-filled", "zero-filled")
    ]
    assert len(logs[0].events) == 3
    assert logs[1] == logs[0]
    assert logs[2] == logs[0]


def test_a_real_log_filled_with_zeros_replays_like_its_events() -> None:
    data = vector("eventlog/td-shim-zero-filled.bin").read_bytes()
    log = parse(data, REGISTERS)
    assert log == parse(data[:9822], REGISTERS)
    assert len(log.events) == 5
    assert log.mismatches(parse(data[:9822], REGISTERS).replay()) == ()


@pytest.mark.parametrize("size", [1, 4, 8, 11, 12, 4096])
def test_a_filled_area_of_any_size_ends_the_log(size: int) -> None:
    events = (command_line(b"x"), secure_boot(b"\x01"))
    rows = written(*events)[:-64]
    assert parse(rows + bytes(size), REGISTERS).events == events


def test_a_log_that_zeros_cut_short_does_not_replay() -> None:
    """A guest that hides events behind zeros hides what its registers prove."""
    boot, line = secure_boot(b"\x01"), command_line(b"x")
    whole = written(boot, line)
    kept = written(boot)[:-64]
    cut = parse(kept + bytes(12) + whole[len(kept) :], REGISTERS)
    assert cut.events == (boot,)
    measured = parse(whole, REGISTERS).replay()
    assert [reason.text[:6] for reason in cut.mismatches(measured)] == ["rtmr2:"]
    assert "kernelCommandLine" not in cut.proved_by(measured).claims()


def test_an_event_that_begins_with_zeros_does_not_end_the_log() -> None:
    """Index and type may be 0; an event without digests is never valid."""
    zero = Event(0, 0, bytes(48), b"")
    after = command_line(b"x")
    assert parse(written(zero, after), REGISTERS).events == (zero, after)


# Runtime events.


def test_runtime_events_of_a_real_guest_reach_the_policy() -> None:
    log = parse(vector("eventlog/aael.bin").read_bytes(), REGISTERS)
    claims = log.proved_by(log.replay()).claims()
    assert claims["runtimeEvents"] == [
        {"domain": "coco.com", "operation": "some-operation", "content": "some-content"},
        {
            "domain": "coco.com",
            "operation": "some-operation",
            "content": '{"key": "value", "nested-key": {"sub-key": "value"}}',
        },
    ]
    assert claims["runtimeEventsComplete"] is True
    assert log.mismatches(log.replay()) == ()


def test_runtime_events_of_a_register_that_does_not_replay_prove_nothing() -> None:
    log = parse(written(pull_image("good")), REGISTERS)
    claims = log.proved_by({**log.replay(), "rtmr3": bytes(48)}).claims()
    assert not {"runtimeEvents", "runtimeEventsComplete"} & claims.keys()


def test_a_runtime_event_with_another_text_is_a_mismatch() -> None:
    good = pull_image("good")
    lie = Event(good.index, good.kind, good.digest, pull_image("evil").data)
    log = EventLog((lie,), REGISTERS)
    (reason,) = log.mismatches(log.replay())
    assert reason.text == "event 0 of type 0x6: its data is not what was measured"
    assert log.claims()["runtimeEvents"] == []
    assert log.claims()["runtimeEventsComplete"] is False


def test_a_runtime_event_hidden_under_another_type_leaves_the_events_incomplete() -> None:
    """The type of an event is not measured."""
    good, evil = pull_image("good"), pull_image("evil")
    hidden = Event(evil.index, 0xA, evil.digest, evil.data)
    claims = EventLog((good, hidden), REGISTERS).claims()
    assert claims["runtimeEvents"] == EventLog((good,), REGISTERS).claims()["runtimeEvents"]
    assert claims["runtimeEventsComplete"] is False


@pytest.mark.parametrize(
    "data",
    [
        b"LEAA",
        b"LEAA\x09\0\0\0a b c",
        b"LEAA\x03\0\0\0a b",
        b"LEAA\x05\0\0\0a b \xff",
        b"OTHR\x05\0\0\0a b c",
    ],
)
def test_a_malformed_runtime_event_is_none(data: bytes) -> None:
    claims = EventLog((event(4, 6, data),), REGISTERS).claims()
    assert (claims["runtimeEvents"], claims["runtimeEventsComplete"]) == ([], False)


def test_runtime_events_are_read_from_one_register_only() -> None:
    elsewhere = event(3, 6, pull_image("good").data)
    assert EventLog((elsewhere,), REGISTERS).claims()["runtimeEvents"] == []


def test_the_size_of_runtime_events_is_limited() -> None:
    """A policy reads all of them for each decision, and a guest determines their size."""
    half = pull_image("x" * (runtimeevents.MAX_TEXT_BYTES // 2 - 150))
    assert len(parse(written(half, half), REGISTERS).events) == 2
    with pytest.raises(EvidenceFormat, match="more than 65536 bytes of runtime events, at byte"):
        parse(written(half, half, pull_image("y" * 500)), REGISTERS)


# The header of attestation-agent, for a guest without CCEL.


@pytest.mark.parametrize("more", [b"", number(0x0B, 2) + number(32, 2)])
def test_a_log_without_boot_events_proves_runtime_events_only(more: bytes) -> None:
    pulled = pull_image("registry.example/app")
    log = parse(without_ccel(pulled, more=more), REGISTERS)
    measured = {"rtmr0": b"\1" * 48, "rtmr1": b"\2" * 48, "rtmr2": b"\3" * 48}
    measured["rtmr3"] = log.replay()["rtmr3"]
    assert log.mismatches(measured) == ()
    claims = log.proved_by(measured).claims()
    events = claims["runtimeEvents"]
    assert isinstance(events, list)
    assert [event["operation"] for event in events if isinstance(event, dict)] == ["PullImage"]
    assert claims["runtimeEventsComplete"] is True
    (reason,) = log.mismatches({**measured, "rtmr3": bytes(48)})
    assert reason.text.startswith("rtmr3: ")


def test_a_log_without_boot_events_must_replay_what_it_claims_about_the_boot() -> None:
    log = parse(without_ccel(secure_boot(b"\x01")), REGISTERS)
    measured = dict.fromkeys(REGISTERS, bytes(48))
    assert [reason.text[:6] for reason in log.mismatches(measured)] == ["rtmr0:"]
    assert "secureBoot" not in log.proved_by(measured).claims()


def test_a_guest_that_has_measured_nothing_yet_has_no_runtime_events() -> None:
    log = parse(without_ccel(), REGISTERS)
    measured = {**dict.fromkeys(REGISTERS, b"\1" * 48), "rtmr3": bytes(48)}
    claims = log.proved_by(measured).claims()
    assert (claims["runtimeEvents"], claims["runtimeEventsComplete"]) == ([], True)


def test_a_boot_log_covers_every_register() -> None:
    log = parse(written(command_line(b"x")), REGISTERS)
    measured = {**log.replay(), "rtmr0": b"\1" * 48}
    assert [reason.text[:6] for reason in log.mismatches(measured)] == ["rtmr0:"]


@given(st.binary(max_size=200), st.integers(0, 200), st.binary(max_size=8))
def test_arbitrary_bytes_are_read_or_refused(junk: bytes, cut: int, more: bytes) -> None:
    good = written(command_line(b"x"), secure_boot(b"\x01"))
    for data in (junk, HEADER + junk, good[:cut] + more + good[cut + len(more) :]):
        try:
            log = parse(data, REGISTERS)
        except EvidenceFormat:
            continue
        log.replay()
        log.claims()


# Which register, which claim.


@pytest.mark.parametrize("index", [1, 2, 3, 4])
def test_an_event_extends_the_register_of_its_index(index: int) -> None:
    measured = event(index, 4, b"data")
    replayed = EventLog((measured,), REGISTERS).replay()
    extended = {REGISTERS[index - 1]: sha384(bytes(48) + measured.digest).digest()}
    assert replayed == {**dict.fromkeys(REGISTERS, bytes(48)), **extended}


@pytest.mark.parametrize("index", [0, 5, 2**32 - 1])
def test_an_event_of_no_register_extends_nothing(index: int) -> None:
    replayed = EventLog((event(index, 4, b"data"),), REGISTERS).replay()
    assert replayed == dict.fromkeys(REGISTERS, bytes(48))


def test_the_claims_of_a_boot() -> None:
    """The last application that firmware started is the kernel."""
    application = eventlog.EV_EFI_BOOT_SERVICES_APPLICATION
    shim, grub, kernel = (event(2, application, data) for data in (b"shim", b"grub", b"kernel"))
    line, boot, other = command_line(b"root=/dev/vda"), secure_boot(b"\x01"), event(2, 4, b"x")
    silent = event(1, eventlog.EV_NO_ACTION, b"")
    events = (silent, boot, shim, other, grub, kernel, line)
    assert EventLog(events, REGISTERS).claims() == {
        "events": [
            {"index": each.index, "type": each.kind, "digest": each.digest.hex()}
            for each in events[1:]
        ],
        "efiApplications": [each.digest.hex() for each in (shim, grub, kernel)],
        "kernelDigest": kernel.digest.hex(),
        "kernelCommandLine": "root=/dev/vda",
        "secureBoot": True,
        "runtimeEvents": [],
        "runtimeEventsComplete": True,
    }


def test_a_log_without_applications_has_no_kernel() -> None:
    assert "kernelDigest" not in EventLog((event(2, 4, b"x"),), REGISTERS).claims()


def test_a_command_line_that_is_not_text_is_not_hidden() -> None:
    """A guest cannot fail its appraisal's explanation, or drop the claim, by such a byte."""
    claims = EventLog((command_line(b"a=\xff"),), REGISTERS).claims()
    assert claims["kernelCommandLine"] == "a=\N{REPLACEMENT CHARACTER}"


def test_a_command_line_that_no_kernel_takes_is_no_claim() -> None:
    """A policy reads it for each decision, and a log has up to 1 MiB."""
    for size, claimed in ((60_000, True), (70_000, False)):
        claims = EventLog((command_line(b"x" * size),), REGISTERS).claims()
        assert ("kernelCommandLine" in claims) is claimed


def test_the_registers_stay_known_where_only_some_are_proved() -> None:
    first, second = event(1, 4, b"1"), event(2, 4, b"2")
    log = EventLog((first, second), REGISTERS)
    measured = {**log.replay(), "rtmr1": b"\x01" * 48}
    proved = log.proved_by(measured)
    assert proved.events == (first,)
    assert proved.replay()["rtmr0"] == measured["rtmr0"]


@pytest.mark.parametrize(
    ("name", "characters"), [("SecureBoot", 9), ("SecureBoo", 10), ("SecureBooT", 10)]
)
def test_secure_boot_is_a_variable_of_exactly_that_name(name: str, characters: int) -> None:
    encoded = name.encode("utf-16-le")
    guid = bytes.fromhex("61dfe48bca93d211aa0d00e098032b8c")
    data = guid + number(characters, 8) + number(1, 8) + encoded + b"\x01"
    measured = event(1, eventlog.EV_EFI_VARIABLE_DRIVER_CONFIG, data)
    assert "secureBoot" not in EventLog((measured,), REGISTERS).claims()


def test_data_that_was_not_measured_is_reported_with_the_digest() -> None:
    lie = event(1, eventlog.EV_EFI_VARIABLE_DRIVER_CONFIG, b"data", b"other")
    log = EventLog((lie,), REGISTERS)
    assert [reason.as_json() for reason in log.mismatches(log.replay())] == [
        {
            "rule": "eventLog",
            "measured": "",
            "expected": lie.digest.hex(),
            "text": f"event 0 of type {lie.kind:#x}: its data is not what was measured",
        }
    ]
    assert {reason.kind for reason in log.mismatches({})} == {ReasonKind.EVENT_LOG}
