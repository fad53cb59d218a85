"""Names of event types and UEFI variables, also of hostile data."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verdictd_py.formats.eventlog import Event
from verdictd_py.formats.eventnames import VENDORS, description_of, type_name, variable_of

GLOBAL = UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c")
DRIVER_CONFIG = 0x80000001


def variable(
    name: str, value: bytes, *, vendor: UUID = GLOBAL, characters: int | None = None
) -> Event:
    count = len(name) if characters is None else characters
    lengths = count.to_bytes(8, "little") + len(value).to_bytes(8, "little")
    data = vendor.bytes_le + lengths + name.encode("utf-16-le") + value
    return Event(1, DRIVER_CONFIG, bytes(48), data)


def test_an_unknown_type_is_displayed_as_its_number() -> None:
    assert type_name(0x80000006) == "EV_EFI_GPT_EVENT"
    assert type_name(0x12345678) == "0x12345678"


@pytest.mark.parametrize(
    ("value", "expected"), [(b"\1", "1 (on)"), (b"\0", "0 (off)"), (b"\7", "7"), (b"ab", "2 bytes")]
)
def test_a_variable_is_named_with_its_vendor(value: bytes, expected: str) -> None:
    event = variable("SecureBoot", value)
    assert description_of(event) == f"SecureBoot (EFI_GLOBAL_VARIABLE): {expected}"


def test_the_guid_of_an_unknown_vendor_is_displayed() -> None:
    other = UUID("00112233-4455-6677-8899-aabbccddeeff")
    assert other not in VENDORS
    found = variable_of(variable("X", b"", vendor=other))
    assert found is not None
    assert found.vendor == str(other)


@pytest.mark.parametrize("characters", [9, 11, 2**63, 2**64 - 1])
def test_a_variable_whose_lengths_do_not_fit_is_not_named(characters: int) -> None:
    event = variable("SecureBoot", b"\1", characters=characters)
    assert variable_of(event) is None
    assert description_of(event) == ""


def test_the_path_of_an_image_is_displayed() -> None:
    name = "\\EFI\\BOOT\\BOOTX64.EFI\0".encode("utf-16-le")
    path = bytes([4, 4]) + (len(name) + 4).to_bytes(2, "little") + name
    path = bytes([2, 1, 4, 0]) + path + bytes([0x7F, 0xFF, 4, 0])
    data = bytes(24) + len(path).to_bytes(8, "little") + path
    event = Event(2, 0x80000003, bytes(48), data)
    assert description_of(event) == "\\EFI\\BOOT\\BOOTX64.EFI"
    assert description_of(Event(2, 0x80000003, bytes(48), data[:-1])) == ""


@pytest.mark.parametrize("length", [0, 1, 3, 5])
def test_a_node_of_a_wrong_length_ends_the_path(length: int) -> None:
    """Otherwise a node of length zero would be read again and again."""
    node = bytes([4, 4]) + length.to_bytes(2, "little")
    data = bytes(24) + len(node).to_bytes(8, "little") + node
    assert description_of(Event(2, 0x80000003, bytes(48), data)) == ""


@given(st.sampled_from((0x80000001, 0x80000003, 0x800000E0, 0xD)), st.binary(max_size=200))
def test_any_data_is_described(kind: int, data: bytes) -> None:
    """A guest chooses them. A node of length zero must not be read again and again."""
    assert isinstance(description_of(Event(1, kind, bytes(48), data)), str)
    path = bytes(24) + len(data).to_bytes(8, "little") + data
    assert isinstance(description_of(Event(1, kind, bytes(48), path)), str)
