"""SGX quotes and collateral for the simulated platform, which makes only TDX quotes itself."""

from __future__ import annotations

import json
import struct
from datetime import datetime

from tests.tees.support import NOW, REPORT_DATA, platform, signed_by
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import SimulatedPlatform, pki
from verdictd_py.tees.intel.quote import parse_quote

FLAGS = 0x05  # INIT and MODE64BIT


DEBUG = 0x02


def sgx_quote(
    flags: int = FLAGS,
    *,
    version: int = 3,
    report_data: bytes = REPORT_DATA,
    of: SimulatedPlatform | None = None,
) -> bytes:
    """Return a version 3 quote by the quoting enclave of a simulated platform."""
    of = of or platform()
    inner = parse_quote(of.quote(report_data))
    header = struct.pack(
        "<HHIHH16s20x", version, 2, 0, 0, 0, bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
    )
    body = struct.pack(
        "<16sI28xQQ32s32x32s96xHH60x64s",
        of.identity.cpu_svn,
        0,
        flags,
        0,
        b"E" * 32,
        b"S" * 32,
        7,
        3,
        report_data,
    )
    signature = (
        pki.sign_raw(of.attestation_key, header + body)
        + inner.attestation_key
        + inner.qe_report
        + inner.qe_report_signature
        + struct.pack("<H", len(inner.qe_auth_data))
        + inner.qe_auth_data
        + struct.pack("<HI", 5, len(inner.pck_chain))
        + inner.pck_chain
    )
    return header + body + struct.pack("<I", len(signature)) + signature


def sgx_collateral(
    status: str = "UpToDate", *, of: SimulatedPlatform | None = None, now: datetime = NOW
) -> Collateral:
    of = of or platform()
    collateral = of.collateral(now)
    info = json.loads(collateral.tcb_info)
    info["id"] = "SGX"
    info["tcbLevels"][0]["tcbStatus"] = status
    identity = json.loads(collateral.qe_identity)
    identity["id"] = "QE"
    texts = {"tcb_info": json.dumps(info), "qe_identity": json.dumps(identity)}
    return signed_by(of, collateral, **texts)


class Enclave:
    """Attester of a genuine enclave that no operator knows."""

    def __init__(self, platform: SimulatedPlatform) -> None:
        self._platform = platform

    def quote(self, report_data: bytes) -> bytes:
        return sgx_quote(report_data=report_data, of=self._platform)

    def endorsements(self, now: datetime) -> Collateral | None:
        del now
        return None
