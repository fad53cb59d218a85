"""Claims and documents that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from verdictd_py.encoding import JsonValue
from verdictd_py.ports import PolicyDocuments

POLICIES: Final = Path(__file__).parents[2] / "policies"
ONE: Final = "1" * 96
TWO: Final = "2" * 96

Claims = dict[str, JsonValue]


def default_documents(tee: str, data: str | None = None) -> PolicyDocuments:
    """Return the packaged policy of `tee` with `data` or the packaged reference data."""
    policy = (POLICIES / f"{tee}Policy.rego").read_text(encoding="utf-8")
    packaged = (POLICIES / f"{tee}Data").read_text(encoding="utf-8")
    return PolicyDocuments(policy, packaged if data is None else data)


def tdx_claims(**changes: JsonValue) -> Claims:
    """Return the claims of a genuine TD, as the verifier returns them."""
    registers = (
        *("mrTd", "mrSeam", "mrSignerSeam", "mrConfigId", "mrOwner", "mrOwnerConfig"),
        *("rtmr0", "rtmr1", "rtmr2", "rtmr3"),
    )
    claims: Claims = dict.fromkeys(registers, ONE)
    claims |= {
        "teeTcbSvn": "07" * 16,
        "tdAttributes": "0000001000000000",
        "xfam": "e702060000000000",
        "reportData": "00" * 64,
        "debug": False,
        "fmspc": "b0c06f000000",
        "tcbStatus": "UpToDate",
        "advisoryIds": [],
        "tcbDate": "2024-03-13T00:00:00Z",
    }
    return claims | changes


def sgx_claims(**changes: JsonValue) -> Claims:
    """Return the claims of an enclave with the original's four names."""
    claims: Claims = {"mrEnclave": "ZW5jbGF2ZQ==", "mrSigner": "c2lnbmVy", "productId": 3, "svn": 2}
    return claims | changes


def without(claims: Claims, *names: str) -> Claims:
    """Return `claims` without some of them."""
    return {name: value for name, value in claims.items() if name not in names}


class Documents:
    """A `PolicySource` in memory, whose documents can be changed at any time."""

    def __init__(self, documents: PolicyDocuments | Exception) -> None:
        self.now = documents

    async def documents(self, tee: str) -> PolicyDocuments:
        if isinstance(self.now, Exception):
            raise self.now
        return self.now
