"""A TDX platform in software: its own root of trust, real quotes, real collateral.

    platform = SimulatedPlatform.create(now=now)
    collateral = platform.collateral(now)
    quote = platform.quote(report_data)
    debug = platform.quote(report_data, TdMeasurements().debug())
    late = platform.with_options(PlatformOptions(tcb_status="OutOfDate")).collateral(now)

For policy tests, rehearsals and `verdictd-py demo`. Its evidence verifies exactly as evidence
of hardware does, but only with the platform's own root as the trusted root. The daemon never
imports this package.
"""

from verdictd_py.simulator.collateral import (
    RELAUNCH_STATUSES,
    TCB_DATE,
    TCB_STATUSES,
    TcbStatus,
    collateral_json,
)
from verdictd_py.simulator.options import PlatformOptions
from verdictd_py.simulator.pcs import PcsAnswer, pcs_answer
from verdictd_py.simulator.platform import BACKDATE, Flaw, SimulatedPlatform
from verdictd_py.simulator.tdreport import TdAttributes, TdBody, TdMeasurements

__all__ = [
    "BACKDATE",
    "RELAUNCH_STATUSES",
    "TCB_DATE",
    "TCB_STATUSES",
    "Flaw",
    "PcsAnswer",
    "PlatformOptions",
    "SimulatedPlatform",
    "TcbStatus",
    "TdAttributes",
    "TdBody",
    "TdMeasurements",
    "collateral_json",
    "pcs_answer",
]
