"""SGX quotes and collateral of the simulated platform, which by itself makes TDX only."""

from __future__ import annotations

import json
import struct

from tests.tees.support import (
    REPORT_DATA,
    good_collateral,
    good_quote,
    platform,
    signed_again,
)
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator import pki
from verdictd_py.tees.intel.quote import parse_quote

FLAGS = 0x05  # INIT and MODE64BIT


DEBUG = 0x02


def sgx_quote(flags: int = FLAGS, *, version: int = 3) -> bytes:
    """A version 3 quote by the simulated platform's quoting enclave."""
    inner = parse_quote(good_quote())
    header = struct.pack(
        "<HHIHH16s20x", version, 2, 0, 0, 0, bytes.fromhex("939a7233f79c4ca9940a0db3957f0607")
    )
    body = struct.pack(
        "<16sI28xQQ32s32x32s96xHH60x64s",
        platform().identity.cpu_svn,
        0,
        flags,
        0,
        b"E" * 32,
        b"S" * 32,
        7,
        3,
        REPORT_DATA,
    )
    signature = (
        pki.sign_raw(platform().attestation_key, header + body)
        + inner.attestation_key
        + inner.qe_report
        + inner.qe_report_signature
        + struct.pack("<H", len(inner.qe_auth_data))
        + inner.qe_auth_data
        + struct.pack("<HI", 5, len(inner.pck_chain))
        + inner.pck_chain
    )
    return header + body + struct.pack("<I", len(signature)) + signature


def sgx_collateral(status: str = "UpToDate") -> Collateral:
    info = json.loads(good_collateral().tcb_info)
    info["id"] = "SGX"
    info["tcbLevels"][0]["tcbStatus"] = status
    identity = json.loads(good_collateral().qe_identity)
    identity["id"] = "QE"
    return signed_again(
        good_collateral(), tcb_info=json.dumps(info), qe_identity=json.dumps(identity)
    )
