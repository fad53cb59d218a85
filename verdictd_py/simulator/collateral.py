"""TCB info and QE identity of the simulated platform, and collateral as JSON.

Source of the two documents: Intel "API documentation of the Provisioning Certification
Service", version 4, "Get TDX TCB Info" (TDX TCB info, version 3) and "Get TD QE Identity".
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Final, Literal, get_args

from verdictd_py.encoding import JsonValue
from verdictd_py.formats.collateral import Collateral
from verdictd_py.simulator.pki import PckIdentity, Validity
from verdictd_py.simulator.tdreport import QuotingEnclave, TdxModule

TcbStatus = Literal[
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    "Revoked",
]
"""Every status that a verifier can return, in Intel's spelling (tdx.md)."""

TCB_STATUSES: Final[tuple[TcbStatus, ...]] = get_args(TcbStatus)

RELAUNCH_STATUSES: Final[dict[TcbStatus, TcbStatus]] = {
    # They result from comparing launch and current SVNs of a TD 1.5 body, so they are never
    # in TCB info: the platform has the status on the right, the TD's launch is older.
    "TDRelaunchAdvised": "UpToDate",
    "TDRelaunchAdvisedConfigurationNeeded": "ConfigurationNeeded",
}

TCB_DATE: Final = "2024-03-13T00:00:00Z"
"""`tcbDate` of the platform's own TCB level, with any status."""

_NEWER_DATE: Final = "2025-05-14T00:00:00Z"
_OLDER_DATE: Final = "2018-01-04T00:00:00Z"

PLATFORM_CPU_SVN: Final = bytes.fromhex("02020202030100050000000000000000")
PLATFORM_PCE_SVN: Final = 11
CURRENT_TEE_TCB_SVN: Final = bytes([5, 1, 2]) + bytes(13)
"""Module SVN 5 of module version 1, then the SEAM loader's SVN."""

OLDER_TEE_TCB_SVN: Final = bytes([4, 1, 2]) + bytes(13)
"""The module before the last TD-preserving update."""


def tcb_info(
    identity: PckIdentity,
    module: TdxModule,
    status: TcbStatus,
    advisory_ids: tuple[str, ...],
    evaluation_number: int,
    validity: Validity,
) -> str:
    """Return the text of TDX TCB info that gives this platform's quotes `status`.

    A newer level comes first unless the platform is up to date, and an older one last, so
    that a verifier must select the level.
    """
    level = RELAUNCH_STATUSES.get(status, status)
    own = _level(identity.pce_svn, level, TCB_DATE, advisory_ids)
    newer = _level(identity.pce_svn + 1, "UpToDate", _NEWER_DATE)
    older = _level(identity.pce_svn - 1, "OutOfDate", _OLDER_DATE, ("INTEL-SA-00106",))
    signer = {
        "mrsigner": module.mr_signer_seam.hex().upper(),
        "attributes": module.seam_attributes.hex().upper(),
        "attributesMask": "F" * 16,
    }
    return _compact(
        {
            "id": "TDX",
            "version": 3,
            "issueDate": rfc3339(validity.not_before),
            "nextUpdate": rfc3339(validity.not_after),
            "fmspc": identity.fmspc.hex().upper(),
            "pceId": identity.pce_id.hex().upper(),
            "tcbType": 0,
            "tcbEvaluationDataNumber": evaluation_number,
            "tdxModule": dict(signer),
            "tdxModuleIdentities": [
                {
                    "id": f"TDX_{module.current_svn[1]:02X}",
                    **signer,
                    "tcbLevels": [
                        _svn_level(module.current_svn[0], "UpToDate", TCB_DATE),
                        _svn_level(1, "OutOfDate", _OLDER_DATE),
                    ],
                }
            ],
            "tcbLevels": [own, older] if level == "UpToDate" else [newer, own, older],
        }
    )


def qe_identity(enclave: QuotingEnclave, evaluation_number: int, validity: Validity) -> str:
    """Return the text of the QE identity that `enclave` satisfies."""
    return _compact(
        {
            "id": "TD_QE",
            "version": 2,
            "issueDate": rfc3339(validity.not_before),
            "nextUpdate": rfc3339(validity.not_after),
            "tcbEvaluationDataNumber": evaluation_number,
            "miscselect": "00000000",
            "miscselectMask": "FFFFFFFF",
            "attributes": enclave.attributes.hex().upper(),
            "attributesMask": "FBFFFFFFFFFFFFFF0000000000000000",  # all but the mode bit
            "mrsigner": enclave.mr_signer.hex().upper(),
            "isvprodid": enclave.isv_prod_id,
            "tcbLevels": [_svn_level(enclave.isv_svn, "UpToDate", TCB_DATE)],
        }
    )


def collateral_json(collateral: Collateral) -> str:
    """Return collateral as the JSON text `QuoteCollateralV3`, with CRLs and signatures in hex.

    dcap-qvl's `QuoteCollateralV3.from_json` and directories of collateral read this form.
    """
    members: dict[str, JsonValue] = {
        "pck_crl_issuer_chain": collateral.pck_crl_issuer_chain,
        "root_ca_crl": collateral.root_ca_crl.hex(),
        "pck_crl": collateral.pck_crl.hex(),
        "tcb_info_issuer_chain": collateral.tcb_info_issuer_chain,
        "tcb_info": collateral.tcb_info,
        "tcb_info_signature": collateral.tcb_info_signature.hex(),
        "qe_identity_issuer_chain": collateral.qe_identity_issuer_chain,
        "qe_identity": collateral.qe_identity,
        "qe_identity_signature": collateral.qe_identity_signature.hex(),
    }
    return json.dumps(members, indent=2)


def rfc3339(moment: datetime) -> str:
    """Format a time as Intel does: UTC, whole seconds, `Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _level(
    pce_svn: int, status: TcbStatus, date: str, advisory_ids: tuple[str, ...] = ()
) -> dict[str, JsonValue]:
    # tdxModuleIdentities evaluate the module's SVN and version (the first two bytes).
    tdx_svns = bytes(2) + CURRENT_TEE_TCB_SVN[2:]
    level: dict[str, JsonValue] = {
        "tcb": {
            "sgxtcbcomponents": [{"svn": svn} for svn in PLATFORM_CPU_SVN],
            "pcesvn": pce_svn,
            "tdxtcbcomponents": [{"svn": svn} for svn in tdx_svns],
        },
        "tcbDate": date,
        "tcbStatus": status,
    }
    if advisory_ids:
        level["advisoryIDs"] = list(advisory_ids)
    return level


def _svn_level(isv_svn: int, status: TcbStatus, date: str) -> dict[str, JsonValue]:
    return {"tcb": {"isvsvn": isv_svn}, "tcbDate": date, "tcbStatus": status}


def _compact(document: dict[str, JsonValue]) -> str:
    """Return the exact text that is signed, without spaces as Intel's."""
    return json.dumps(document, separators=(",", ":"))
