"""Names of event types and of UEFI variables in an event log, for people who read it.

A name says what the log claims. Only the digest of an event is measured: see `Event.data_proved`.

Sources: TCG "PC Client Platform Firmware Profile", 10.4.1 (event types), 10.2 (UEFI_VARIABLE_DATA,
UEFI_IMAGE_LOAD_EVENT); UEFI 2.10, 3.3 and 32.6.1 (vendors of variables), 10.3.5.4 (file paths);
shim, "SBAT" and "MOK" variables.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from verdictd_py.formats.eventlog import Event

TYPES: Final = {
    0x00000000: "EV_PREBOOT_CERT",
    0x00000001: "EV_POST_CODE",
    0x00000002: "EV_UNUSED",
    0x00000003: "EV_NO_ACTION",
    0x00000004: "EV_SEPARATOR",
    0x00000005: "EV_ACTION",
    0x00000006: "EV_EVENT_TAG",
    0x00000007: "EV_S_CRTM_CONTENTS",
    0x00000008: "EV_S_CRTM_VERSION",
    0x00000009: "EV_CPU_MICROCODE",
    0x0000000A: "EV_PLATFORM_CONFIG_FLAGS",
    0x0000000B: "EV_TABLE_OF_DEVICES",
    0x0000000C: "EV_COMPACT_HASH",
    0x0000000D: "EV_IPL",
    0x0000000E: "EV_IPL_PARTITION_DATA",
    0x0000000F: "EV_NONHOST_CODE",
    0x00000010: "EV_NONHOST_CONFIG",
    0x00000011: "EV_NONHOST_INFO",
    0x00000012: "EV_OMIT_BOOT_DEVICE_EVENTS",
    0x00000013: "EV_POST_CODE2",
    0x80000001: "EV_EFI_VARIABLE_DRIVER_CONFIG",
    0x80000002: "EV_EFI_VARIABLE_BOOT",
    0x80000003: "EV_EFI_BOOT_SERVICES_APPLICATION",
    0x80000004: "EV_EFI_BOOT_SERVICES_DRIVER",
    0x80000005: "EV_EFI_RUNTIME_SERVICES_DRIVER",
    0x80000006: "EV_EFI_GPT_EVENT",
    0x80000007: "EV_EFI_ACTION",
    0x80000008: "EV_EFI_PLATFORM_FIRMWARE_BLOB",
    0x80000009: "EV_EFI_HANDOFF_TABLES",
    0x8000000A: "EV_EFI_PLATFORM_FIRMWARE_BLOB2",
    0x8000000B: "EV_EFI_HANDOFF_TABLES2",
    0x8000000C: "EV_EFI_VARIABLE_BOOT2",
    0x8000000D: "EV_EFI_GPT_EVENT2",
    0x80000010: "EV_EFI_HCRTM_EVENT",
    0x800000E0: "EV_EFI_VARIABLE_AUTHORITY",
    0x800000E1: "EV_EFI_SPDM_FIRMWARE_BLOB",
    0x800000E2: "EV_EFI_SPDM_FIRMWARE_CONFIG",
    0x800000E3: "EV_EFI_SPDM_DEVICE_POLICY",
    0x800000E4: "EV_EFI_SPDM_DEVICE_AUTHORITY",
}
"""Names of event types by number."""

VENDORS: Final = {
    UUID("8be4df61-93ca-11d2-aa0d-00e098032b8c"): "EFI_GLOBAL_VARIABLE",
    UUID("d719b2cb-3d3a-4596-a3bc-dad00e67656f"): "EFI_IMAGE_SECURITY_DATABASE",
    UUID("605dab50-e046-4300-abb6-3dd810dd8b23"): "SHIM_LOCK",
}
"""Names of the vendors whose variables a boot measures, by GUID."""

MAX_NAME_CHARACTERS: Final = 1024
"""Maximum length of a variable's name; known ones have at most 20 characters."""

_VARIABLES: Final = frozenset((0x80000001, 0x80000002, 0x8000000C, 0x800000E0))
_IMAGES: Final = frozenset((0x80000003, 0x80000004, 0x80000005))
_TEXTS: Final = frozenset((0x00000005, 0x0000000D, 0x80000007))
_HEADER_BYTES: Final = 32
_FILE_PATH: Final = (4, 4)  # type and subtype of a device path node: media, file path


@dataclass(frozen=True, slots=True)
class Variable:
    """A UEFI variable, as an event describes it.

    Attributes:
        vendor: name of the vendor if it is known, otherwise its GUID.
        value: the value; for EV_EFI_VARIABLE_AUTHORITY the entry that vouched for an image.
    """

    name: str
    vendor: str
    value: bytes

    def __str__(self) -> str:
        value = f"{len(self.value)} bytes"
        if len(self.value) == 1:
            value = {0: "0 (off)", 1: "1 (on)"}.get(self.value[0], str(self.value[0]))
        return f"{self.name} ({self.vendor}): {value}"


def type_name(kind: int) -> str:
    """Return TCG's name of an event type, or its number if it has none."""
    return TYPES.get(kind, f"{kind:#010x}")


def variable_of(event: Event) -> Variable | None:
    """Return the UEFI variable of an event; None for other events and for malformed data."""
    data = event.data
    if event.kind not in _VARIABLES or len(data) < _HEADER_BYTES:
        return None
    end = _HEADER_BYTES + 2 * int.from_bytes(data[16:24], "little")
    size = int.from_bytes(data[24:32], "little")
    if end > _HEADER_BYTES + 2 * MAX_NAME_CHARACTERS or end + size != len(data):
        return None
    guid = UUID(bytes_le=data[:16])
    name = data[_HEADER_BYTES:end].decode("utf-16-le", "replace")
    return Variable(name, VENDORS.get(guid, str(guid)), data[end:])


def description_of(event: Event) -> str:
    """Return what the data of an event says, in one line; empty if it is not understood."""
    if (variable := variable_of(event)) is not None:
        return str(variable)
    if event.kind in _IMAGES:
        return "".join(_file_paths(event.data))
    if event.kind in _TEXTS:
        return event.data.removesuffix(b"\0").decode("utf-8", "replace")
    return ""


def _file_paths(data: bytes) -> Iterator[str]:
    """Yield the parts of the path of an image that the firmware loads (UEFI_IMAGE_LOAD_EVENT).

    Four numbers of 64 bits precede the device path; the last is its length.
    """
    at, end = _HEADER_BYTES, len(data)
    if end < _HEADER_BYTES or at + int.from_bytes(data[24:32], "little") != end:
        return
    while at + 4 <= end:
        length = int.from_bytes(data[at + 2 : at + 4], "little")
        if length < 4 or at + length > end:
            return
        if (data[at], data[at + 1]) == _FILE_PATH:
            yield data[at + 4 : at + length].decode("utf-16-le", "replace").rstrip("\0")
        at += length
