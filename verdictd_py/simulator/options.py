"""How a simulated platform is, and what its collateral says about it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Final, Self

from verdictd_py.encoding import JsonValue
from verdictd_py.simulator.collateral import TCB_STATUSES, TcbStatus
from verdictd_py.simulator.pki import PckCa

ROOT_CRL_PATH: Final = "/SimulatedRootCA.der"
"""Below `pcs_url`, as Intel's root names `/IntelSGXRootCA.der`."""


@dataclass(frozen=True, slots=True)
class PlatformOptions:
    """How the platform is, and what its collateral says about it.

    Attributes:
        fmspc: 12 hex digits; fixed once the platform exists.
        ca: which CA issued the PCK certificate; fixed once the platform exists.
        pcs_url: what CRL addresses in certificates begin with; fixed as well. The
            default resolves nowhere (RFC 2606).
        tcb_status: what a verifier finds. The two `TDRelaunch...` need TD 1.5 bodies.
        advisory_ids: Intel's, listed with the platform's TCB level.
        tcb_evaluation_number: `tcbEvaluationDataNumber` of TCB info and QE identity.
        pck_revoked: the PCK certificate is in the PCK CRL.
        pck_ca_revoked: the CA that issued it is in the root's CRL.
        collateral_lifetime: from the `now` collateral is asked for to its next update.

    Raises:
        ValueError: one of them cannot be had.
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
            raise ValueError(f"no TCB status {self.tcb_status!r}; one of {TCB_STATUSES}")

    @property
    def fixed(self) -> tuple[str, str, str]:
        """What stands in certificates, so cannot change."""
        return (self.fmspc.lower(), self.ca, self.pcs_url)

    @property
    def root_crl_url(self) -> str:
        return self.pcs_url + ROOT_CRL_PATH

    @property
    def pck_crl_url(self) -> str:
        return f"{self.pcs_url}/sgx/certification/v4/pckcrl?ca={self.ca}&encoding=der"

    def as_json(self) -> dict[str, JsonValue]:
        """All members as JSON has them; the lifetime in seconds."""
        members: dict[str, JsonValue] = {
            member.name: getattr(self, member.name) for member in fields(self)
        }
        members["advisory_ids"] = list(self.advisory_ids)
        members["collateral_lifetime"] = self.collateral_lifetime.total_seconds()
        return members

    @classmethod
    def from_json(cls, members: dict[str, Any]) -> Self:
        """The inverse of `as_json`.

        Raises:
            ValueError, TypeError, KeyError: a member is unknown, missing or of another shape.
        """
        return cls(
            **{
                **members,
                "advisory_ids": tuple(members["advisory_ids"]),
                "collateral_lifetime": timedelta(seconds=members["collateral_lifetime"]),
            }
        )
