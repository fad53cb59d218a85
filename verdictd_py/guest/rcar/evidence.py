"""Evidence in the form that RCAR carries it: a JSON value of each TEE's own shape.

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
from verdictd_py.guest.rcar.messages import canonical, init_data_digest, report_data
from verdictd_py.simulator import TdMeasurements

_REGISTERS: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")

AdditionalEvidence = Callable[[bytes], str]
"""Digest that devices' evidence covers -> JSON text of it by TEE, empty where there are none."""


class Evidence(Protocol):
    """Evidence about the guest it runs in."""

    @property
    def tee(self) -> str:
        """Name of the TEE in `auth`."""
        ...

    def collect(self, digest: bytes) -> JsonValue:
        """The primary evidence over `digest`, at most 64 bytes. It may take its time.

        Raises:
            ConfigError: this guest has none.
        """
        ...


class TdxEvidence:
    """A TDX guest's: a quote, and its boot event log where there is one.

    Args:
        attester: makes the quotes.
        event_log: in binary (CCEL), None for guests that cannot read it.
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
    """What guest-components show where there is no TEE: it proves nothing to anybody."""

    tee = "sample"

    def collect(self, digest: bytes) -> JsonValue:
        """The digest itself, not padded (attester/src/sample/mod.rs)."""
        return {"svn": "1", "report_data": encode_base64(digest)}


class NoEvidence:
    """Of a guest that was attested for: it has a token, and shows nothing else."""

    tee = "none"

    def collect(self, digest: bytes) -> JsonValue:
        del digest
        raise ConfigError("this guest has no evidence to show, only a token")


def no_devices(digest: bytes) -> str:
    """Additional evidence of a guest without attestable devices."""
    del digest
    return ""


def sample_device(digest: bytes) -> str:
    """Additional evidence of guest-components' sample device (attester/src/sample_device)."""
    shown: JsonValue = {"svn": "2", "report_data": encode_base64(digest)}
    return canonical({"sampledevice": shown}).decode()


def measured(
    td: TdMeasurements, *, init_data: str | None = None, event_log: bytes | None = None
) -> TdMeasurements:
    """What an honest TD measures that was started with this init-data and wrote this log.

    Raises:
        ConfigError: the init-data names no algorithm.
        EvidenceFormat: the event log is none.
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
