"""Every component of a platform next to its TCB level and the newest one, for the operator.

This report decides nothing.

Source: Intel "API documentation of the Provisioning Certification Service", version 4, "Get TDX TCB
Info"; `tcb` for the rules of the rating.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, Final

from verdictd_py.domain.tcb import TcbComparison, TcbComponent
from verdictd_py.formats.collateral import Collateral
from verdictd_py.tees.intel.behind import MODULE, component_name, is_good
from verdictd_py.tees.intel.collateral.parsed import parsed
from verdictd_py.tees.intel.pck import Platform
from verdictd_py.tees.intel.quote import TDX, Quote
from verdictd_py.tees.intel.tcb import level_rank, matched_level

_Object = Mapping[str, Any]

_ISV_SVN: Final = slice(258, 260)  # of a report body
_OWN_LEVELS: Final = 2
"""Number of TDX components that the identity of a TDX module decides about, if it has one."""


def compare(quote: Quote, platform: Platform, collateral: Collateral) -> TcbComparison | None:
    """Return all components; None if the collateral does not have the expected form.

    Args:
        quote: a verified quote.
        platform: of its verified PCK certificate.
        collateral: verified collateral.
    """
    tee_svn = quote.body[:16] if quote.tee == TDX else None
    enclave = int.from_bytes(quote.qe_report[_ISV_SVN], "little")
    return _compare(collateral, bytes(platform.cpu_svn), platform.pce_svn, tee_svn, enclave)


@lru_cache(maxsize=128)
def _compare(
    collateral: Collateral, cpu_svn: bytes, pce_svn: int, tee_svn: bytes | None, enclave: int
) -> TcbComparison | None:
    """Compare the versions; cached, because all guests of a platform have the same ones."""
    try:
        view = parsed(collateral)
        info = view.tcb_info
        matched = matched_level(info, cpu_svn, pce_svn, tee_svn)
        ordered = sorted(info["tcbLevels"], key=lambda each: level_rank(each["tcb"]), reverse=True)
        newest = next((level for level in ordered if is_good(level)), ordered[0])
        rows = [
            *_rows("sgxtcbcomponents", "CPU component", cpu_svn, matched, newest),
            _pce(pce_svn, matched, newest),
        ]
        if tee_svn is not None:
            own = tee_svn[1] > 0
            rows += _rows("tdxtcbcomponents", "TDX component", tee_svn, matched, newest, own=own)
            if own:
                rows.append(_module(info, tee_svn))
        rows.append(_isv("quoting enclave", enclave, view.qe_identity["tcbLevels"]))
        status, date = ("", "") if matched is None else (matched["tcbStatus"], matched["tcbDate"])
        return TcbComparison(
            status, date, str(newest["tcbStatus"]), str(newest["tcbDate"]), tuple(rows)
        )
    except (KeyError, TypeError, ValueError, AttributeError, LookupError, RecursionError):
        return None


def _rows(
    member: str,
    default: str,
    svns: bytes,
    matched: _Object | None,
    newest: _Object,
    *,
    own: bool = False,
) -> Iterator[TcbComponent]:
    """Yield the components of one list of a TCB level."""
    needed = newest["tcb"][member]
    levels = None if matched is None else matched["tcb"][member]
    for place, (svn, component) in enumerate(zip(svns, needed, strict=True)):
        yield TcbComponent(
            component_name(component, f"{default} {place + 1}"),
            svn,
            None if levels is None else int(levels[place]["svn"]),
            int(component["svn"]),
            elsewhere=own and place < _OWN_LEVELS,
        )


def _pce(svn: int, matched: _Object | None, newest: _Object) -> TcbComponent:
    level = None if matched is None else int(matched["tcb"]["pcesvn"])
    return TcbComponent("PCE (PCESVN)", svn, level, int(newest["tcb"]["pcesvn"]))


def _module(info: _Object, tee_svn: bytes) -> TcbComponent:
    wanted = f"TDX_{tee_svn[1]:02X}"
    found = [item for item in info["tdxModuleIdentities"] if item["id"].upper() == wanted]
    return _isv(f"{MODULE} {wanted}", tee_svn[0], found[0]["tcbLevels"])


def _isv(name: str, has: int, levels: Sequence[_Object]) -> TcbComponent:
    """Return an enclave or module, which has levels of its own."""
    met = [level["tcb"]["isvsvn"] for level in levels if has >= level["tcb"]["isvsvn"]]
    newest = max(level["tcb"]["isvsvn"] for level in levels if is_good(level))
    return TcbComponent(name, has, int(max(met)) if met else None, int(newest))
