"""TCB rating from TCB info and QE identity, for quotes that dcap-qvl refuses to rate.

dcap-qvl rates every quote that it accepts. It does not rate a quote that it refuses for the TD's
attributes or for a revoked TCB, but operators want to see the rating of a refused guest too. The
rules are those of Intel's quote verification library (`TcbLevelCheck.cpp`,
`TdxModuleCheck.cpp`, `convergeTcbStatuses`, `checkForRelaunch`). This rating is only reported: no
guest is accepted because of it.
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

_Object = Mapping[str, Any]  # of collateral that dcap-qvl has read; a missing member: LookupError

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
"""Values of a platform's TCB status in Intel's quote verification library."""
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
class TcbRating:
    """Intel's rating of a platform.

    Attributes:
        status: TCB status as Intel spells it (`UpToDate`).
        advisory_ids: ids of Intel's advisories (`INTEL-SA-00615`) without duplicates, in the
            collateral's order.
        date: date of the platform's TCB level, RFC 3339.
    """

    status: str
    advisory_ids: tuple[str, ...]
    date: str


def evaluation_number(collateral: Collateral) -> int:
    """Return the lower of the TCB evaluation numbers of TCB info and QE identity.

    Raises:
        ValueError: TCB info or QE identity has none.
    """
    try:
        view = parsed(collateral)
        numbers: list[int] = [
            members["tcbEvaluationDataNumber"] for members in (view.tcb_info, view.qe_identity)
        ]
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError("the collateral has no TCB evaluation number") from error
    if not all(isinstance(number, int) for number in numbers):
        raise ValueError("a TCB evaluation number of the collateral is not an integer")
    return min(numbers)


def behind_days(collateral: Collateral, rating: TcbRating, now: datetime) -> int:
    """Return the days since the newest TCB level was published, 0 for a platform that has it.

    Raises:
        ValueError: the collateral has no dates, or the platform is out of date although it has
            the newest level.
    """
    try:
        levels = parsed(collateral).tcb_info["tcbLevels"]
        newest = max(datetime.fromisoformat(level["tcbDate"]) for level in levels)
        own = datetime.fromisoformat(rating.date)
    except (LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError("the collateral has no dates of TCB levels") from error
    if own < newest:
        return max(0, (now - newest).days)
    if rating.status.startswith(_OUT_OF_DATE):  # its module or quoting enclave is
        raise ValueError("the collateral does not say since when the platform is out of date")
    return 0


def rate(quote: Quote, platform: Platform, collateral: Collateral) -> TcbRating | None:
    """Return the rating of a platform whose quote and collateral are verified already.

    1. Select the TCB level: the highest one that the platform meets in every component.
    2. For TDX, converge its status with that of the TDX module.
    3. Converge the result with the status of the quoting enclave.
    4. For TD 1.5, do the same for the current TCB: relaunching the TD may be advised.

    Returns:
        The rating; None if no level is met, or the collateral does not have the expected form.
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
        return TcbRating(status, tuple(dict.fromkeys(advisories)), launch.date)
    except (KeyError, TypeError, ValueError, AttributeError, LookupError, RecursionError):
        return None


def _platform_level(info: _Object, platform: Platform, tee_svn: bytes | None) -> TcbRating:
    """Take steps 1 and 2 of `rate`.

    Args:
        tee_svn: the 16 SVNs of the TDX module, None for SGX.

    Raises:
        LookupError: no level is met.
    """
    # 1.
    met = matched_level(info, platform.cpu_svn, platform.pce_svn, tee_svn)
    if met is None:
        raise LookupError("no TCB level is met")
    status, date = met["tcbStatus"], met["tcbDate"]
    advisories = list(met.get("advisoryIDs", ()))
    # 2.
    if tee_svn is not None and tee_svn[1] > 0:
        wanted = f"TDX_{tee_svn[1]:02X}"
        modules = [item for item in info["tdxModuleIdentities"] if item["id"].upper() == wanted]
        level = _first_met(modules[0]["tcbLevels"], tee_svn[0])
        status = _converge(status, level["tcbStatus"])
        advisories += level.get("advisoryIDs", ())
        date = min(date, level["tcbDate"], key=datetime.fromisoformat)
    return TcbRating(status, tuple(advisories), date)


def matched_level(
    info: _Object, cpu_svn: Sequence[int], pce_svn: int, tee_svn: bytes | None
) -> _Object | None:
    """Return the highest TCB level that a platform meets in every component; None if none is met.

    Args:
        tee_svn: the 16 SVNs of the TDX module, None for SGX.
    """
    # If the module has a version, its identity decides about its own SVNs (the first two).
    skip = 2 if tee_svn is not None and tee_svn[1] > 0 else 0
    for level in sorted(info["tcbLevels"], key=lambda each: level_rank(each["tcb"]), reverse=True):
        tcb = level["tcb"]
        if (
            pce_svn >= tcb["pcesvn"]
            and _meets(cpu_svn, _svns(tcb["sgxtcbcomponents"]))
            and (tee_svn is None or _meets(tee_svn[skip:], _svns(tcb["tdxtcbcomponents"])[skip:]))
        ):
            found: _Object = level
            return found
    return None


def _first_met(levels: Sequence[_Object], svn: int) -> _Object:
    """Return the first level of an enclave or module whose ISVSVN is not above `svn`.

    Raises:
        LookupError: no level is met.
    """
    for level in levels:
        if svn >= level["tcb"]["isvsvn"]:
            return level
    raise LookupError("no TCB level is met")


def _svns(components: Sequence[Mapping[str, int]]) -> list[int]:
    return [component["svn"] for component in components]


def level_rank(tcb: _Object) -> tuple[list[int], int, list[int]]:
    """Return the sort key of a TCB level: CPU SVNs, then PCE SVN, then SVNs of the TDX module."""
    return _svns(tcb["sgxtcbcomponents"]), tcb["pcesvn"], _svns(tcb.get("tdxtcbcomponents", ()))


def _meets(have: Sequence[int], need: Sequence[int]) -> bool:
    """Return whether every component is met; ValueError for different numbers of components."""
    return all(own >= needed for own, needed in zip(have, need, strict=True))


def _converge(status: str, component: str) -> str:
    """Return a platform's status combined with that of its module or quoting enclave.

    Only a component that is out of date or revoked changes the platform's status.
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
    """Return the status of a TD 1.5: a relaunch is advised if the platform was updated since."""
    if REVOKED in (launch, current):
        return REVOKED
    if launch in (_OUT_OF_DATE, "OutOfDateConfigurationNeeded") and current in _CURRENT_IS_GOOD:
        if {launch, current} & _NEEDS_CONFIGURATION:
            return "TDRelaunchAdvisedConfigurationNeeded"
        return "TDRelaunchAdvised"
    return launch
