"""The daemon: `composition` builds it, `daemon` starts and stops it, `process` handles signals."""

from verdictd_py.daemon.clock import Clock, utc_now
from verdictd_py.daemon.collateral import collateral_source
from verdictd_py.daemon.composition import build_daemon
from verdictd_py.daemon.daemon import Daemon
from verdictd_py.daemon.process import run
from verdictd_py.daemon.usecases import build_appraiser

__all__ = [
    "Clock",
    "Daemon",
    "build_appraiser",
    "build_daemon",
    "collateral_source",
    "run",
    "utc_now",
]
