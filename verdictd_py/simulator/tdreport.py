"""Measurements of a simulated TD, and the signed bytes of its quotes.

Source of every layout: Intel "TDX DCAP Quoting Library API", appendix A (quote v4 and
v5), and "SGX Developer Reference" for the report of the quoting enclave.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass, fields, replace
from enum import IntEnum, IntFlag
from typing import Final, Self

from verdictd_py.domain.evidence import REPORT_DATA_BYTES

DIGEST_BYTES: Final = 48
"""Size of SHA-384, and so of every measurement of TDX."""

HEADER_BYTES: Final = 48  # appendix A.3.1
RTMR1_OFFSET: Final = 376  # within the body, appendix A.3.2
_TEE_TYPE_TDX: Final = 0x81  # header, offset 4
_ECDSA_P256: Final = 2  # header, offset 2: attestation key type
_INTEL_QE: Final = bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")  # header, offset 12
_TD15_EX_BYTES: Final = 237  # TD 1.5 extended body (885) without the TD 1.5 body (648)


class TdAttributes(IntFlag):
    """TDATTRIBUTES, a 64-bit set ("TDX Module ABI", TD_ATTRIBUTES); unknown bits are preserved."""

    DEBUG = 1 << 0
    SERVTD_EXT = 1 << 17
    SEPT_VE_DISABLE = 1 << 28
    MIGRATABLE = 1 << 29
    PKS = 1 << 30
    KL = 1 << 31
    PERFMON = 1 << 63


class TdBody(IntEnum):
    """Type of the body of a v5 quote (body descriptor, offset 48)."""

    TD10 = 2
    TD15 = 3
    TD15_EX = 4


def simulated_digest(what: str) -> bytes:
    """Return the measurement of something that does not exist: SHA-384 of a sentence."""
    return hashlib.sha384(f"verdictd-py simulator: {what}".encode()).digest()


_ZEROS: Final = bytes(DIGEST_BYTES)


@dataclass(frozen=True, slots=True)
class TdMeasurements:
    """Report of the simulated hardware about one TD.

    Every register has 48 bytes; `td_attributes` and `xfam` are 64-bit numbers, written
    little-endian. The defaults are those of an honest TD, with the same digests in every
    process, so that they can be pinned. `mr_service_td` needs a TD 1.5 body.

    Raises:
        ValueError: a register does not have 48 bytes, or a number not 64 bits.
    """

    mr_td: bytes = simulated_digest("MRTD")
    rtmr0: bytes = simulated_digest("RTMR0")
    rtmr1: bytes = simulated_digest("RTMR1")
    rtmr2: bytes = simulated_digest("RTMR2")
    rtmr3: bytes = _ZEROS  # nothing is extended at run time
    mr_config_id: bytes = _ZEROS
    mr_owner: bytes = _ZEROS
    mr_owner_config: bytes = _ZEROS
    mr_service_td: bytes = _ZEROS
    td_attributes: int = TdAttributes.SEPT_VE_DISABLE
    xfam: int = 0x0602E7  # x87, SSE, AVX, AVX-512, PKRU, AMX: a present-day guest's

    def __post_init__(self) -> None:
        for member in fields(self):
            value = getattr(self, member.name)
            if isinstance(value, int):
                if not 0 <= value < 1 << 64:
                    raise ValueError(f"{member.name} is a number of 64 bits")
            elif len(value) != DIGEST_BYTES:
                raise ValueError(f"{member.name} has {len(value)} bytes, not {DIGEST_BYTES}")

    def with_attributes(self, attributes: int) -> Self:
        """Return the same TD with further bits of TDATTRIBUTES set."""
        return replace(self, td_attributes=self.td_attributes | attributes)

    def without_attributes(self, attributes: int) -> Self:
        """Return the same TD with some bits of TDATTRIBUTES cleared."""
        return replace(self, td_attributes=self.td_attributes & ~attributes)

    def debug(self) -> Self:
        """Return the same TD in debug mode, in which its host can read and change it."""
        return self.with_attributes(TdAttributes.DEBUG)


@dataclass(frozen=True, slots=True)
class TdxModule:
    """The simulated TDX module and its SVNs.

    Attributes:
        launch_svn: TEE_TCB_SVN, 16 bytes: SVNs at the TD's launch.
        current_svn: TEE_TCB_SVN_2, 16 bytes: SVNs now; only TD 1.5 bodies contain them.
    """

    launch_svn: bytes
    current_svn: bytes
    mr_seam: bytes = simulated_digest("TDX module")
    mr_signer_seam: bytes = _ZEROS  # as Intel's production modules
    seam_attributes: bytes = bytes(8)


def header(version: int) -> bytes:
    """Return the header of a quote, 48 bytes; the QE's user data is zero."""
    return struct.pack("<HHI4x16s20x", version, _ECDSA_P256, _TEE_TYPE_TDX, _INTEL_QE)


def body(td: TdMeasurements, module: TdxModule, report_data: bytes, kind: TdBody) -> bytes:
    """Return a TD report's body: 584, 648 or 885 bytes by `kind` (appendix A.3.2, A.4.2).

    Raises:
        ValueError: REPORTDATA does not have 64 bytes, or a TD 1.0 body has no MRSERVICETD.
    """
    if len(report_data) != REPORT_DATA_BYTES:
        raise ValueError(f"REPORTDATA has {len(report_data)} bytes, not {REPORT_DATA_BYTES}")
    td10 = b"".join(
        (
            module.launch_svn,
            module.mr_seam,
            module.mr_signer_seam,
            module.seam_attributes,
            td.td_attributes.to_bytes(8, "little"),
            td.xfam.to_bytes(8, "little"),
            td.mr_td,
            td.mr_config_id,
            td.mr_owner,
            td.mr_owner_config,
            td.rtmr0,
            td.rtmr1,
            td.rtmr2,
            td.rtmr3,
            report_data,
        )
    )
    if kind is TdBody.TD10:
        if td.mr_service_td != _ZEROS:
            raise ValueError("MRSERVICETD needs a TD 1.5 body, so a quote of version 5")
        return td10
    td15 = td10 + module.current_svn + td.mr_service_td
    return td15 if kind is TdBody.TD15 else td15 + bytes(_TD15_EX_BYTES)


def body_descriptor(kind: TdBody, content: bytes) -> bytes:
    """Return the body descriptor of quotes of version 5: type and size of the body."""
    return struct.pack("<HI", kind, len(content))


@dataclass(frozen=True, slots=True)
class QuotingEnclave:
    """The simulated TD quoting enclave, which the simulated QE identity describes."""

    mr_enclave: bytes = simulated_digest("quoting enclave")[:32]
    mr_signer: bytes = simulated_digest("quoting enclave's signer")[:32]
    attributes: bytes = bytes.fromhex("11000000000000000000000000000000")  # INIT, PROVISIONKEY
    isv_prod_id: int = 2  # as Intel's TD QE
    isv_svn: int = 4

    def report(self, cpu_svn: bytes, report_data: bytes) -> bytes:
        """Return its SGX report, 384 bytes; `cpu_svn` has 16 bytes and `report_data` 64."""
        return struct.pack(
            "<16sI28x16s32s32x32s96xHH60x64s",
            cpu_svn,
            0,  # MISCSELECT
            self.attributes,
            self.mr_enclave,
            self.mr_signer,
            self.isv_prod_id,
            self.isv_svn,
            report_data,
        )
