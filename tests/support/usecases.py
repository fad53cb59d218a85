"""The use cases of a broker on a data directory, without listeners."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Final, cast

from tests.support.memory import NOW, VERIFIED
from tests.support.tees import PROVING, TEES
from verdictd_py import daemon as app
from verdictd_py.broker.judgement import Judgement
from verdictd_py.config import Settings, Unsafe
from verdictd_py.daemon.usecases import UseCases, use_cases
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.ports import Events
from verdictd_py.storage.layout import prepare
from verdictd_py.tees.intel.collateral.port import CollateralSource
from verdictd_py.tees.intel.tee import IntelService

APPRAISAL: Final = "a1"
"""Id of the appraisal in the history."""


def opened(root: Path, events: Events, *, measured: str = "cd" * 48, **settings: Any) -> UseCases:
    """Return the use cases on a data directory, with a guest in the history that can be pinned.

    Args:
        measured: the guest's RTMR2.
        settings: more fields of `Settings`.
    """
    directory, _ = prepare(root, PROVING)
    source = cast("CollateralSource", object())  # no guest connects
    cases = use_cases(
        Settings(data_dir=root, **settings),
        Unsafe(),
        directory,
        tees=TEES,
        intel=IntelService(source),
        root_ca_der=None,
        clock=app.utc_now,
        events=events,
    )
    guest = replace(VERIFIED, claims={**VERIFIED.claims, "rtmr2": measured})
    appraisal = Appraisal(APPRAISAL, NOW, "tdx", "test", guest, bound=True, refusal=None)
    cases.history.remember(Judgement.of(appraisal, "192.0.2.1:5", TEES.measurements("tdx")))
    return cases
