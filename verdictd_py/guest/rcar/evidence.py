"""Evidence as RCAR carries it: a JSON value whose shape depends on the TEE.

Sources: wire-rcar.md, "Handshake"; guest-components, attestation-agent/attester/src/tdx and
.../sample.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final, Protocol

from verdictd_py.encoding import JsonValue, encode_base64
from verdictd_py.errors import ConfigError
from verdictd_py.formats import eventlog
from verdictd_py.guest.attesters import Attester
from verdictd_py.guest.rcar.messages import init_data_digest, report_data
from verdictd_py.simulator import TdMeasurements

_REGISTERS: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")

AdditionalEvidence = Callable[[bytes], str]
"""Function from the digest that devices' evidence covers to its JSON text, empty without any."""


class Evidence(Protocol):
    """Source of evidence about the guest that it runs in."""

    @property
    def tee(self) -> str:
        """Name of the TEE in `auth`."""
        ...

    def collect(self, digest: bytes) -> JsonValue:
        """Collect the primary evidence over `digest`, at most 64 bytes; it may block.

        Raises:
            ConfigError: this guest has no evidence.
        """
        ...


class TdxEvidence:
    """Evidence of a TDX guest: a quote, and its boot event log if available.

    Args:
        attester: source of the quotes.
        event_log: in binary (CCEL); None for guests that cannot read it.
    """

    tee = "tdx"

    def __init__(self, attester: Attester, event_log: bytes | None = None) -> None:
        self._attester = attester
        self._event_log = event_log

    def collect(self, digest: bytes) -> JsonValue:
        log = None if self._event_log is None else encode_base64(self._event_log)
        quote = encode_base64(self._attester.quote(report_data(digest)))
        return {"cc_eventlog": log, "quote": quote}


class SampleEvidence:
    """Evidence that guest-components present without a TEE; it proves nothing."""

    tee = "sample"

    def collect(self, digest: bytes) -> JsonValue:
        """Return the digest itself, not padded (attester/src/sample/mod.rs)."""
        return {"svn": "1", "report_data": encode_base64(digest)}


class NoEvidence:
    """Evidence of a guest that only has a token, so `collect` always fails."""

    tee = "none"

    def collect(self, digest: bytes) -> JsonValue:
        del digest
        raise ConfigError("this guest has no evidence to present, only a token")


def no_devices(digest: bytes) -> str:
    """Return the additional evidence of a guest without attestable devices: none."""
    del digest
    return ""


def measurements_of(
    td: TdMeasurements, *, init_data: str | None = None, event_log: bytes | None = None
) -> TdMeasurements:
    """Return the measurements of an honest TD with this init-data and this event log.

    Raises:
        ConfigError: the init-data names no supported algorithm.
        EvidenceFormat: the event log is invalid.
    """
    if init_data is not None:
        td = replace(td, mr_config_id=init_data_digest(init_data))
    if event_log is not None:
        registers = eventlog.parse(event_log, _REGISTERS).replay()
        td = replace(
            td,
            rtmr0=registers["rtmr0"],
            rtmr1=registers["rtmr1"],
            rtmr2=registers["rtmr2"],
            rtmr3=registers["rtmr3"],
        )
    return td
