"""Conformance of the history of judgements (`History`)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import replace

import pytest

from tests.support.memory import NOW, VERIFIED
from tests.support.tees import TEES
from verdictd_py.broker.history import History
from verdictd_py.broker.judgement import Judgement, Verdict
from verdictd_py.domain.appraisal import Appraisal
from verdictd_py.domain.callers import ROLES, Caller
from verdictd_py.errors import NotAuthorized, NotFound

OPERATOR = Caller("operator", ROLES["operator"])


def judgement(name: str, verdict: Verdict = Verdict.ACCEPTED) -> Judgement:
    appraisal = Appraisal(name, NOW, "tdx", "test", VERIFIED, bound=True, refusal=None)
    return replace(
        Judgement.of(appraisal, "192.0.2.1:5", TEES.measurements("tdx")), verdict=verdict
    )


class HistorySuite(ABC):
    """Subclasses define the fixture `history`."""

    @pytest.fixture
    @abstractmethod
    def history(self) -> History:
        """A history without judgements that has capacity for two of each verdict."""

    def test_the_newest_come_first_and_the_oldest_are_evicted(self, history: History) -> None:
        for name in ("a", "b", "c"):
            history.remember(judgement(name))
        assert [judgement.id for judgement in history.last(OPERATOR, Verdict.ACCEPTED, 0)] == [
            "c",
            "b",
        ]
        assert [judgement.id for judgement in history.last(OPERATOR, Verdict.ACCEPTED, 1)] == ["c"]
        with pytest.raises(NotFound):
            history.find(OPERATOR, "a")
        assert history.counts(OPERATOR)[Verdict.ACCEPTED] == 3

    def test_a_verdict_never_evicts_another(self, history: History) -> None:
        history.remember(judgement("refused", Verdict.REFUSED))
        for number in range(5):
            history.remember(judgement(f"{number}", Verdict.UNVERIFIED))
        assert history.find(OPERATOR, "refused").verdict is Verdict.REFUSED

    def test_callers_without_the_right_are_denied(self, history: History) -> None:
        caller = Caller("farm", ROLES["wrap"])
        history.remember(judgement("a"))
        with pytest.raises(NotAuthorized):
            history.find(caller, "a")
        with pytest.raises(NotAuthorized):
            history.last(caller, Verdict.ACCEPTED, 0)
        with pytest.raises(NotAuthorized):
            history.counts(caller)


class TestMemory(HistorySuite):
    @pytest.fixture
    def history(self) -> History:
        return History(capacity=2)
