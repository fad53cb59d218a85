"""Which accepted guests' quotes and event logs are stored: one for each boot, not one each time.

A guest connects again and again with the same measurements. Its page displays the certificates and
the boot of the appraisal with which they were stored last.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Final

from verdictd_py.broker.judgement import Judgement, Verdict

MAX_BOOTS: Final = 512
"""Boots that are remembered; the history has as many accepted guests."""

PAUSE: Final = timedelta(minutes=10)
"""After this time a boot is stored again: the history evicts the oldest appraisals."""


class Presentations:
    """Boots of accepted guests that this process stored lately."""

    def __init__(self) -> None:
        self._stored: OrderedDict[Hashable, datetime] = OrderedDict()

    def reduced(self, judgement: Judgement) -> Judgement:
        """Return a judgement as it is stored: without what is stored already."""
        if judgement.verdict is not Verdict.ACCEPTED or not judgement.quote:
            return judgement
        boot = judgement.guest, repr(judgement.measured)
        last = self._stored.get(boot)
        if last is not None and timedelta(0) <= judgement.at - last < PAUSE:
            return replace(judgement, quote=b"", event_log=b"")
        self._stored[boot] = judgement.at
        self._stored.move_to_end(boot)
        if len(self._stored) > MAX_BOOTS:
            self._stored.popitem(last=False)
        return judgement
