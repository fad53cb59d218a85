"""Runtime events in a guest's event log: what attestation-agent measured after the boot.

attestation-agent (from v0.15) appends an EV_EVENT_TAG event to the log for each measurement that
it makes: a 32-bit tag (`AAEL`), the length of a text, and the text `domain operation content`. The
event's digest is that of all three.

Sources: TCG "PC Client Platform Firmware Profile", 10.2.6 (TCG_PCClientTaggedEvent);
guest-components, attestation-agent, "eventlog"; trustee, "confidential-containers-eventlog".
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

EV_EVENT_TAG: Final = 0x00000006

MAX_TEXT_BYTES: Final = 64 * 1024
"""Maximum size of the texts of all runtime events of a log. An image pull has about 250 bytes.
The policy engine reads all of them for each decision."""

_TAG: Final = (0x4141454C).to_bytes(4, "little")  # the characters AAEL as a big-endian number
_LENGTH_BYTES: Final = 4


@dataclass(frozen=True, slots=True)
class RuntimeEvent:
    """One runtime event.

    Attributes:
        domain: who defined the operation, `github.com/confidential-containers`.
        operation: `PullImage`.
        content: the rest of the text, often JSON: `{"image":"...", "digest":"sha256:..."}`.
    """

    domain: str
    operation: str
    content: str = field(repr=False)


def has_tag(kind: int, data: bytes) -> bool:
    """Return whether an event of this type and data is attestation-agent's.

    Other software writes EV_EVENT_TAG events too, whose digests are not those of their data.
    """
    return kind == EV_EVENT_TAG and data.startswith(_TAG)


def read(kind: int, data: bytes) -> RuntimeEvent | None:
    """Read a runtime event; return None for another event or a malformed one."""
    if not has_tag(kind, data):
        return None
    length = int.from_bytes(data[len(_TAG) : len(_TAG) + _LENGTH_BYTES], "little")
    text = data[len(_TAG) + _LENGTH_BYTES :]
    if length != len(text):
        return None
    try:
        domain, operation, content = text.decode("utf-8").split(" ", 2)
    except ValueError:  # not UTF-8 (UnicodeDecodeError), or not three parts
        return None
    return RuntimeEvent(domain, operation, content)
