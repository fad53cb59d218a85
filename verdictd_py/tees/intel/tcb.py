"""TCB status from TCB info and QE identity, for evidence that the library refuses to rate.

dcap-qvl rates every quote it accepts. One it refuses for the TD's attributes, or for a
revoked TCB, it does not rate, and an operator wants to see the rating on a refusal too.
The rules are those of Intel's quote verification library (`TcbLevelCheck.cpp`,
`TdxModuleCheck.cpp`, `convergeTcbStatuses`, `checkForRelaunch`). What is computed here is
shown and never accepts anything.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.collateral.parsed import parsed
from verdictd_py.tees.intel.pck import Platform
from verdictd_py.tees.intel.quote import TDX, BodyKind, Quote

_Object = Mapping[str, Any]  # of collateral that dcap-qvl has read: a slip is a LookupError

REVOKED: Final = "Revoked"
_OUT_OF_DATE: Final = "OutOfDate"
STATUSES: Final = (
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDate",
    "OutOfDateConfigurationNeeded",
    "TDRelaunchAdvised",
    "TDRelaunchAdvisedConfigurationNeeded",
    REVOKED,
)
"""Intel's terms for the TCB status of a platform, in its quote verification library."""
_NEEDS_CONFIGURATION: Final = {
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
    "OutOfDateConfigurationNeeded",
}
_CURRENT_IS_GOOD: Final = {
    "UpToDate",
    "SWHardeningNeeded",
    "ConfigurationNeeded",
    "ConfigurationAndSWHardeningNeeded",
}


@dataclass(frozen=True, slots=True)
class TcbVerdict:
    """How Intel rates a platform.

    Attributes:
        status: Intel's spelling (`UpToDate`).
        advisory_ids: Intel's (`INTEL-SA-00615`), in the order found, none twice.
        date: RFC 3339, the date of the platform's TCB level.
    """

    status: str
    advisory_ids: tuple[str, ...]
    date: str


def evaluation_number(collateral: Collateral) -> int:
    """The lower TCB evaluation number of TCB info and QE identity.

    Raises:
        ValueError: one of them has none.
    """
    try:
        view = parsed(collateral)
        numbers: list[int] = [
            members["tcbEvaluationDataNumber"] for members in (view.tcb_info, view.qe_identity)
        ]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("the collateral has no TCB evaluation number") from error
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError("a TCB evaluation number of the collateral is not a number")
    return min(numbers)


def behind_days(collateral: Collateral, verdict: TcbVerdict, now: datetime) -> int:
    """Days since the newest TCB level came out, 0 for a platform that is at it.

    Raises:
        ValueError: the collateral does not say so, or the platform is out of date although
            it is at that level.
    """
    try:
        levels = parsed(collateral).tcb_info["tcbLevels"]
        newest = max(datetime.fromisoformat(level["tcbDate"]) for level in levels)
        own = datetime.fromisoformat(verdict.date)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the collateral has no dates of TCB levels") from error
    if own < newest:
        return max(0, (now - newest).days)
    if verdict.status.startswith(_OUT_OF_DATE):  # by its module or quoting enclave
        raise ValueError("the collateral does not say what the platform is behind")
    return 0


def rate(quote: Quote, platform: Platform, collateral: Collateral) -> TcbVerdict | None:
    """Rates a platform whose quote and collateral are verified already.

    1. The TCB level: the first, highest first, that the platform meets in every component.
    2. For TDX, the level of the TDX module converges with it.
    3. The level of the quoting enclave converges with both.
    4. For TD 1.5, the same for the TCB of now: relaunching the TD may be advised.

    Returns:
        None where no level is met, or the collateral has not the expected form.
    """
    try:
        view = parsed(collateral)
        info = view.tcb_info
        enclave = _first_met(
            view.qe_identity["tcbLevels"],
            int.from_bytes(quote.qe_report[258:260], "little"),  # ISVSVN of a report body
        )
        launch = _platform_level(info, platform, quote.body[:16] if quote.tee == TDX else None)
        status = _converge(launch.status, enclave["tcbStatus"])
        if quote.kind in (BodyKind.TD15, BodyKind.TD15_EXTENDED):
            current = _platform_level(info, platform, quote.body[584:600])  # TEE_TCB_SVN_2
            status = _relaunch(status, _converge(current.status, enclave["tcbStatus"]))
        advisories = (*launch.advisory_ids, *enclave.get("advisoryIDs", ()))
        return TcbVerdict(status, tuple(dict.fromkeys(advisories)), launch.date)
    except (KeyError, TypeError, ValueError, AttributeError, LookupError, RecursionError):
        return None


def _platform_level(info: _Object, platform: Platform, tee_svn: bytes | None) -> TcbVerdict:
    """Steps 1 and 2; `tee_svn` are the 16 SVNs of the TDX module, None for SGX.

    Raises:
        LookupError: no level is met.
    """
    # 1. Where the module has a version, its own SVNs (the first two) are left to step 2.
    skip = 2 if tee_svn is not None and tee_svn[1] > 0 else 0
    met = None
    for level in sorted(info["tcbLevels"], key=lambda level: _rank(level["tcb"]), reverse=True):
        tcb = level["tcb"]
        if (
            platform.pce_svn >= tcb["pcesvn"]
            and _meets(platform.cpu_svn, _svns(tcb["sgxtcbcomponents"]))
            and (tee_svn is None or _meets(tee_svn[skip:], _svns(tcb["tdxtcbcomponents"])[skip:]))
        ):
            met = level
            break
    if met is None:
        raise LookupError("no TCB level is met")
    status, date = met["tcbStatus"], met["tcbDate"]
    advisories = list(met.get("advisoryIDs", ()))
    # 2.
    if tee_svn is not None and tee_svn[1] > 0:
        wanted = f"TDX_{tee_svn[1]:02X}"
        modules = [one for one in info["tdxModuleIdentities"] if one["id"].upper() == wanted]
        level = _first_met(modules[0]["tcbLevels"], tee_svn[0])
        status = _converge(status, level["tcbStatus"])
        advisories += level.get("advisoryIDs", ())
        date = min(date, level["tcbDate"], key=datetime.fromisoformat)
    return TcbVerdict(status, tuple(advisories), date)


def _first_met(levels: Sequence[_Object], svn: int) -> _Object:
    """The first level of an enclave or module whose ISVSVN is not above `svn`."""
    for level in levels:
        if svn >= level["tcb"]["isvsvn"]:
            return level
    raise LookupError("no TCB level is met")


def _svns(components: Sequence[Mapping[str, int]]) -> list[int]:
    return [component["svn"] for component in components]


def _rank(tcb: _Object) -> tuple[list[int], int, list[int]]:
    """Order of TCB levels: by CPU SVNs, then PCE SVN, then those of the TDX module."""
    return _svns(tcb["sgxtcbcomponents"]), tcb["pcesvn"], _svns(tcb.get("tdxtcbcomponents", ()))


def _meets(have: Sequence[int], need: Sequence[int]) -> bool:
    """Whether every component is met; other counts are not comparable (ValueError)."""
    return all(found >= needed for found, needed in zip(have, need, strict=True))


def _converge(status: str, component: str) -> str:
    """A platform's status with that of its module or quoting enclave.

    Only a component that is out of date or revoked changes it.
    """
    if component == REVOKED:
        return REVOKED
    if component == _OUT_OF_DATE:
        if status in ("UpToDate", "SWHardeningNeeded"):
            return _OUT_OF_DATE
        if status in ("ConfigurationNeeded", "ConfigurationAndSWHardeningNeeded"):
            return "OutOfDateConfigurationNeeded"
    return status


def _relaunch(launch: str, current: str) -> str:
    """Status of a TD 1.5: one launched out of date on a platform that is not any more."""
    if REVOKED in (launch, current):
        return REVOKED
    if launch in (_OUT_OF_DATE, "OutOfDateConfigurationNeeded") and current in _CURRENT_IS_GOOD:
        if {launch, current} & _NEEDS_CONFIGURATION:
            return "TDRelaunchAdvisedConfigurationNeeded"
        return "TDRelaunchAdvised"
    return launch
