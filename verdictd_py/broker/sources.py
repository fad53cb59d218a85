"""Sources of decisions: which documents and which collateral have decided in this process.

A decision names the digests of its sources. The first decision by new ones is preceded by a record
of them, whatever has changed: a file, a named set that has expired, or collateral that was renewed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from verdictd_py.domain.appraisal import Appraisal, DecidedBy
from verdictd_py.domain.events import CollateralUsed, DocumentsUsed
from verdictd_py.domain.eventtypes import Event

MAX_SOURCES: Final = 1024
"""Sources that are remembered. Those of a guest's own collateral evict others, which are then
recorded again."""

_COLLATERAL: Final = "collateral"
"""Last part of the key of collateral. The keys of documents end with a digest."""

_RELEASE: Final = ""
"""First part of the key of the documents of a release, in the place of a TEE."""

_Key = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NewSources:
    """Sources that have no record yet, and the events that record them."""

    keys: tuple[_Key, ...] = ()
    events: tuple[Event, ...] = ()


NOTHING: Final = NewSources()


class Sources:
    """Sources whose use is recorded."""

    def __init__(self) -> None:
        self._recorded: OrderedDict[_Key, None] = OrderedDict()

    def new(self, appraisal: Appraisal) -> NewSources:
        """Return what must be recorded before the result of an appraisal."""
        keys: tuple[_Key, ...] = ()
        evidence, by = appraisal.evidence, appraisal.decided_by
        if by is not None and appraisal.tee is not None:
            keys = ((appraisal.tee, by.policy, by.data),)
        if evidence is not None and evidence.collateral is not None:
            until = "" if evidence.valid_until is None else evidence.valid_until.isoformat()
            keys += ((evidence.tee, evidence.collateral, until, _COLLATERAL),)
        return self._new(keys)

    def new_of_releases(self, decided: Iterable[DecidedBy | None]) -> NewSources:
        """Return what must be recorded before the result of decisions about releases.

        Args:
            decided: the documents of each; None for a decision without a policy.
        """
        return self._new(tuple((_RELEASE, by.policy, by.data) for by in decided if by is not None))

    def _new(self, keys: tuple[_Key, ...]) -> NewSources:
        new = tuple(dict.fromkeys(key for key in keys if key not in self._recorded))
        return NewSources(new, tuple(map(_event_of, new))) if new else NOTHING

    def note(self, new: NewSources) -> None:
        """Note that sources are recorded."""
        for key in new.keys:
            self._recorded[key] = None
        while len(self._recorded) > MAX_SOURCES:
            self._recorded.popitem(last=False)


def _event_of(key: _Key) -> Event:
    if key[-1] == _COLLATERAL:
        tee, digest, until, _ = key
        return CollateralUsed(tee=tee, sha256=digest, until=until or None)
    tee, policy, data = key
    if tee == _RELEASE:
        return DocumentsUsed(policy=policy, data=data)
    return DocumentsUsed(tee=tee, policy=policy, reference=data)
