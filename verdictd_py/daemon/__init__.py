"""Composition root: the only place that builds concrete parts and starts them."""

from verdictd_py.daemon.clock import Clock, utc_now
from verdictd_py.daemon.collateral import collateral_source
from verdictd_py.daemon.daemon import Daemon, run
from verdictd_py.daemon.usecases import build_appraiser

__all__ = ["Clock", "Daemon", "build_appraiser", "collateral_source", "run", "utc_now"]
