"""Definition of the TEE `tdx`: Intel Trust Domain Extensions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from verdictd_py.domain.claims import Claim, hexadecimal, measurement
from verdictd_py.errors import EvidenceFormat
from verdictd_py.packaged import policy_text
from verdictd_py.ports.tees import (
    Documents,
    EventLogRegisters,
    InitDataBinding,
    TcbStatus,
    Tee,
)
from verdictd_py.tees.intel.quote import TDX, parse_quote
from verdictd_py.tees.intel.tee import (
    ACCEPTED_TCB,
    KNOWN_TCB,
    REVOKED_TCB,
    TCB_CLAIM,
    certificates,
    shared_claims,
    trust,
    wire,
)
from verdictd_py.tees.tdx.verifier import TdxVerifier, body_claims, read_report_data

REGISTERS: Final = ("rtmr0", "rtmr1", "rtmr2", "rtmr3")
"""Measurement registers 1 to 4 of an event log; register 0 is MRTD, which no log extends."""

_CLAIMS: Final[Mapping[str, Claim]] = {
    "mrTd": measurement(hexadecimal(48), "initial contents of the TD: its firmware"),
    "rtmr0": measurement(hexadecimal(48), "firmware configuration"),
    "rtmr1": measurement(
        hexadecimal(48), "software that the firmware started: boot loader, kernel"
    ),
    "rtmr2": measurement(
        hexadecimal(48), "files that the boot loader loaded: command line, initrd"
    ),
    "rtmr3": measurement(hexadecimal(48), "measurements that the guest made at run time"),
    "mrSeam": measurement(hexadecimal(48), "the TDX module"),
    "mrSignerSeam": measurement(hexadecimal(48), "signer of the TDX module, zeros for Intel"),
    "mrConfigId": measurement(hexadecimal(48), "the host's configuration: digest of init-data"),
    "mrOwner": measurement(hexadecimal(48), "owner of the TD, chosen by the host"),
    "mrOwnerConfig": measurement(hexadecimal(48), "the owner's configuration, chosen by the host"),
    "mrServiceTd": Claim(hexadecimal(48), "service TDs that are bound to the TD"),
    "teeTcbSvn": Claim(hexadecimal(16), "security versions of the TDX module at launch"),
    "teeTcbSvn2": Claim(hexadecimal(16), "security versions of the current TDX module"),
    "tdAttributes": Claim(hexadecimal(8), "attributes of the TD", sample="00" * 8),
    "xfam": Claim(hexadecimal(8), "extended processor features of the TD"),
    **shared_claims(optional=False),
}


def _registers(quote: bytes) -> dict[str, bytes]:
    parsed = parse_quote(quote)
    if parsed.tee != TDX:
        raise EvidenceFormat(f"a quote of {parsed.tee} has no registers that an event log extends")
    claims = body_claims(parsed)
    return {name: bytes.fromhex(str(claims[name])) for name in REGISTERS}


TEE: Final = Tee(
    name=TDX,
    aliases=("tdx_ecdsa",),  # spelling of the original
    wire=wire(TDX, "1.2.840.113741.1337.8"),  # wire-rats-tls.md, first row of the table
    claims=_CLAIMS,
    documents=Documents("tdxPolicy.rego", "tdxData", policy_text),
    verifier=TdxVerifier.of,
    tcb=TcbStatus(
        TCB_CLAIM,
        ACCEPTED_TCB,
        revoked=REVOKED_TCB,
        grace=("tcbGraceDays", "tcbBehindDays"),
        known=KNOWN_TCB,
    ),
    report_data=read_report_data,
    event_log=EventLogRegisters(REGISTERS, extended_later=("rtmr3",), measured=_registers),
    init_data=InitDataBinding("mrConfigId", 48),
    trust=trust,
    certificates=certificates,
    served_unpinned=True,
)
