"""Properties of a simulated platform, and of the collateral about it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Final, Self

from verdictd_py.encoding import JsonValue
from verdictd_py.simulator.collateral import TCB_STATUSES, TcbStatus
from verdictd_py.simulator.pki import PckCa

ROOT_CRL_PATH: Final = "/SimulatedRootCA.der"
"""Path under `pcs_url`; Intel's root certificate names `/IntelSGXRootCA.der`."""


@dataclass(frozen=True, slots=True)
class PlatformOptions:
    """Properties of the platform, and of the collateral about it.

    Attributes:
        fmspc: 12 hex digits; fixed once the platform exists.
        ca: the CA that issues the PCK certificate; fixed once the platform exists.
        pcs_url: prefix of the CRL addresses in certificates; fixed as well. The default
            never resolves (RFC 2606).
        tcb_status: result of a verifier. The two `TDRelaunch...` need TD 1.5 bodies.
        advisory_ids: Intel's identifiers, listed with the platform's TCB level.
        tcb_evaluation_number: `tcbEvaluationDataNumber` of TCB info and QE identity.
        pck_revoked: the PCK certificate is in the PCK CRL.
        pck_ca_revoked: the CA that issued it is in the root's CRL.
        collateral_lifetime: from the `now` of `collateral` to its next update.

    Raises:
        ValueError: one of them is invalid.
    """

    fmspc: str = "50806f000000"
    ca: PckCa = "platform"
    pcs_url: str = "https://pcs.simulated.invalid"
    tcb_status: TcbStatus = "UpToDate"
    advisory_ids: tuple[str, ...] = ()
    tcb_evaluation_number: int = 17
    pck_revoked: bool = False
    pck_ca_revoked: bool = False
    collateral_lifetime: timedelta = timedelta(days=30)

    def __post_init__(self) -> None:
        if len(self.fmspc) != 12 or len(bytes.fromhex(self.fmspc)) != 6:
            raise ValueError("an FMSPC is 12 hex digits")
        if self.ca not in ("platform", "processor"):
            raise ValueError("the CA of a PCK is 'platform' or 'processor'")
        if self.tcb_status not in TCB_STATUSES:
            raise ValueError(f"unknown TCB status {self.tcb_status!r}; use one of {TCB_STATUSES}")

    @property
    def fixed(self) -> tuple[str, str, str]:
        """Properties that are in certificates, so that they cannot change."""
        return (self.fmspc.lower(), self.ca, self.pcs_url)

    @property
    def root_crl_url(self) -> str:
        return self.pcs_url + ROOT_CRL_PATH

    @property
    def pck_crl_url(self) -> str:
        return f"{self.pcs_url}/sgx/certification/v4/pckcrl?ca={self.ca}&encoding=der"

    def as_json(self) -> dict[str, JsonValue]:
        """Return all members as JSON; the lifetime is in seconds."""
        members: dict[str, JsonValue] = {
            member.name: getattr(self, member.name) for member in fields(self)
        }
        members["advisory_ids"] = list(self.advisory_ids)
        members["collateral_lifetime"] = self.collateral_lifetime.total_seconds()
        return members

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> Self:
        """Construct options from the result of `as_json`.

        Raises:
            ValueError, TypeError, KeyError: a member is unknown, missing or malformed.
        """
        return cls(
            **{
                **members,
                "advisory_ids": tuple(members["advisory_ids"]),
                "collateral_lifetime": timedelta(seconds=members["collateral_lifetime"]),
            }
        )
