"""Components of a platform that are older than Intel's newest TCB, for the operator's report.

A rating says only `OutOfDate`. An operator has to know what to update: the firmware and microcode
of the platform, or the TDX module, which come from different parties. This report decides nothing.

Source: Intel "API documentation of the Provisioning Certification Service", version 4, "Get TDX TCB
Info"; `tcb` for the rules of the rating.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.collateral.parsed import parsed
from verdictd_py.tees.intel.pck import Platform
from verdictd_py.tees.intel.quote import TDX, BodyKind, Quote
from verdictd_py.tees.intel.tcb import REVOKED, level_rank

_Object = Mapping[str, Any]

PLATFORM: Final = "platform"
MODULE: Final = "TDX module"
_OUT_OF_DATE: Final = "OutOfDate"
_ISV_SVN: Final = slice(258, 260)  # of a report body
_CURRENT_SVN: Final = slice(584, 600)  # TEE_TCB_SVN_2 of a TD 1.5 body


@dataclass(frozen=True, slots=True)
class Behind:
    """A component whose security version is lower than that of the newest TCB.

    Attributes:
        half: the part of the TCB to update: `PLATFORM` or `MODULE`.
        component: what it is, as Intel's TCB info calls it.
        has: its security version (SVN).
        needs: the SVN of the newest TCB that is not out of date.
        since: date of the first TCB level that needs more than `has`, RFC 3339.
        of_td: whether the quote contains its SVN at the start of the TD.
        restart: whether the component was updated since the TD was started.
    """

    half: str
    component: str
    has: int
    needs: int
    since: str
    of_td: bool = False
    restart: bool = False

    def __str__(self) -> str:
        since = self.since.partition("T")[0]
        text = f"{self.half}: {self.component} has SVN {self.has}, needs {self.needs} since {since}"
        later = "; it was updated after the TD was started: restart the TD" if self.restart else ""
        return text + later


def behind(quote: Quote, platform: Platform, collateral: Collateral) -> tuple[Behind, ...]:
    """Return what is behind the newest TCB.

    It is empty if nothing is, or if the collateral does not have the expected form.

    Args:
        quote: a verified quote.
        platform: of its verified PCK certificate.
        collateral: verified collateral.
    """
    try:
        view = parsed(collateral)
        tee_svn = quote.body[:16] if quote.tee == TDX else b""
        found = [*_td(view.tcb_info, platform, tee_svn), *_enclave(view.qe_identity, quote)]
        if quote.kind in (BodyKind.TD15, BodyKind.TD15_EXTENDED):
            current = quote.body[_CURRENT_SVN]
            still = {each.component for each in _td(view.tcb_info, platform, current)}
            found = [
                replace(each, restart=each.of_td and each.component not in still) for each in found
            ]
        return tuple(found)
    except (KeyError, TypeError, ValueError, AttributeError, LookupError, RecursionError):
        return ()


def _td(info: _Object, platform: Platform, tee_svn: bytes) -> Iterator[Behind]:
    """Yield what is behind in TCB info for the SVNs of a TDX module, none for SGX."""
    yield from _platform(info, platform, tee_svn)
    if tee_svn and tee_svn[1] > 0:
        yield from _module(info, tee_svn)


def _platform(info: _Object, platform: Platform, tee_svn: bytes) -> Iterator[Behind]:
    """Yield the components of the platform's TCB levels."""
    levels = sorted(info["tcbLevels"], key=lambda level: level_rank(level["tcb"]), reverse=True)
    needed = _first(level for level in levels if is_good(level))["tcb"]
    for place, component in enumerate(needed["sgxtcbcomponents"]):
        svns = [(level["tcb"]["sgxtcbcomponents"][place]["svn"], level) for level in levels]
        name = component_name(component, f"CPU component {place + 1}")
        yield from _one(PLATFORM, name, platform.cpu_svn[place], component["svn"], svns)
    svns = [(level["tcb"]["pcesvn"], level) for level in levels]
    yield from _one(PLATFORM, "PCE", platform.pce_svn, needed["pcesvn"], svns)
    skip = 2 if tee_svn and tee_svn[1] > 0 else 0  # `_module` compares the first two then
    for place, svn in enumerate(tee_svn[skip:], start=skip):
        component = needed["tdxtcbcomponents"][place]
        svns = [(level["tcb"]["tdxtcbcomponents"][place]["svn"], level) for level in levels]
        name = component_name(component, f"TDX component {place + 1}")
        half = MODULE if place < 2 else PLATFORM
        for each in _one(half, name, svn, component["svn"], svns):
            yield replace(each, of_td=True)


def _module(info: _Object, tee_svn: bytes) -> Iterator[Behind]:
    """Yield the TDX module, if it has levels of its own and is behind them."""
    wanted = f"TDX_{tee_svn[1]:02X}"
    module = _first(item for item in info["tdxModuleIdentities"] if item["id"].upper() == wanted)
    for each in _isv(MODULE, MODULE, tee_svn[0], module["tcbLevels"]):
        yield replace(each, of_td=True)


def _enclave(identity: _Object, quote: Quote) -> Iterator[Behind]:
    """Yield the quoting enclave, which the host's DCAP packages bring."""
    svn = int.from_bytes(quote.qe_report[_ISV_SVN], "little")
    yield from _isv(PLATFORM, "quoting enclave", svn, identity["tcbLevels"])


def _isv(half: str, name: str, has: int, levels: Sequence[_Object]) -> Iterator[Behind]:
    svns = [(level["tcb"]["isvsvn"], level) for level in levels]
    needed = max(svn for svn, level in svns if is_good(level))
    yield from _one(half, name, has, needed, svns)


def _one(
    half: str, name: str, has: int, needs: int, svns: Sequence[tuple[int, _Object]]
) -> Iterator[Behind]:
    """Yield the component if it is behind.

    Args:
        svns: its SVN in each level.
    """
    if has < needs:
        dates = [level["tcbDate"] for svn, level in svns if svn > has]
        yield Behind(half, name, has, needs, min(dates, key=datetime.fromisoformat))


def _first(items: Iterable[_Object]) -> _Object:
    """Return the first item.

    Raises:
        LookupError: there is none. (StopIteration would end a generator with RuntimeError.)
    """
    for item in items:
        return item
    raise LookupError("the TCB info has no such level")


def is_good(level: _Object) -> bool:
    """Return whether a TCB level is neither out of date nor revoked."""
    status: str = level["tcbStatus"]
    return status != REVOKED and not status.startswith(_OUT_OF_DATE)


def component_name(component: _Object, default: str) -> str:
    """Return Intel's name of a component with its number: `SGX Late Microcode Update (OS/VMM)`."""
    kind, category = component.get("type"), component.get("category")
    named = " ".join(str(part) for part in (kind, f"({category})" if category else "") if part)
    return f"{default}, {named}" if named else default
