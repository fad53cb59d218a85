"""Cache of quotes that were evaluated before: guests that connect again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, Generic, TypeVar

MAX_QUOTES: Final = 1024
"""Maximum number of cached quotes, about 1 KiB each."""

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class _Evaluation(Generic[Result]):
    """Result of one evaluation, with the times at which it would be the same."""

    result: Result = field(repr=False)
    collateral: bytes
    since: datetime
    until: datetime


class EvaluatedQuotes(Generic[Result]):
    """Results of the evaluations of accepted quotes, one for each quote.

    An evaluation depends on the quote, the collateral, the time and the trusted root. A result is
    therefore returned only

    * for the same bytes of the quote, its PCK chain included;
    * with the same bytes of the collateral: each new CRL, TCB info or QE identity invalidates it;
    * from the time of the evaluation on, so that a clock that is set back invalidates it;
    * before the first part of the collateral expires.

    The caller has one cache for one root, and checks the certificates of both chains at each time.
    The quotes that were not used for longest are evicted. Refused quotes are never cached.

    Args:
        most: maximum number of quotes.
    """

    def __init__(self, most: int = MAX_QUOTES) -> None:
        self._most = most
        self._evaluations: OrderedDict[str, _Evaluation[Result]] = OrderedDict()

    def __contains__(self, quote: str) -> bool:
        """Return whether the signatures of a quote were verified, whatever its collateral.

        Args:
            quote: SHA-256 of the quote, in hex.
        """
        return quote in self._evaluations

    def get(self, quote: str, collateral: bytes, now: datetime) -> Result | None:
        """Return the result of an evaluation that would be the same now; None if there is none.

        Args:
            quote: SHA-256 of the quote, in hex.
            collateral: SHA-256 of the collateral.
            now: time of the evaluation.
        """
        known = self._evaluations.get(quote)
        if known is None or known.collateral != collateral:
            return None
        if not known.since <= now < known.until:
            return None
        self._evaluations.move_to_end(quote)
        return known.result

    def add(
        self, quote: str, collateral: bytes, result: Result, *, since: datetime, until: datetime
    ) -> None:
        """Store the result of an evaluation.

        Args:
            since: time of the evaluation.
            until: when the first part of the collateral expires.
        """
        self._evaluations[quote] = _Evaluation(result, collateral, since, until)
        self._evaluations.move_to_end(quote)
        while len(self._evaluations) > self._most:
            self._evaluations.popitem(last=False)
