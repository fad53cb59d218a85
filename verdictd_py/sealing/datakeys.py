"""Bounded cache of unwrapped data keys, which the operator chooses with `--seal-cache-seconds`.

With it, an object whose data key was unwrapped within that time is served without the provider of
the KEK, also while the provider does not answer. Contents are never cached: the sealed bytes are
read from the store and authenticated at each use.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from verdictd_py.domain.secrets import SecretBytes

MAX_DATA_KEYS: Final = 4096
"""Maximum number of cached data keys, some 400 bytes each."""


@dataclass(frozen=True, slots=True)
class _Cached:
    until: float
    data_key: SecretBytes


class DataKeys:
    """Data keys by their wrapped form, the version of the KEK and the context.

    Args:
        seconds: time after which a data key is discarded; its use does not extend it.
        clock: monotonic, in seconds.

    Attributes:
        seconds: the time; the owner calls `expire` so long after each `add`.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._keys: OrderedDict[tuple[str, bytes, bytes], _Cached] = OrderedDict()

    def get(self, version: str, wrapped: bytes, context: bytes) -> SecretBytes | None:
        """Return a data key that was added within the time; None without one."""
        self.expire()
        found = self._keys.get((version, wrapped, context))
        return None if found is None else found.data_key

    def add(self, version: str, wrapped: bytes, context: bytes, data_key: SecretBytes) -> None:
        """Cache a data key; the oldest one is discarded if there are too many."""
        self.expire()
        place = (version, wrapped, context)
        self._keys.pop(place, None)
        self._keys[place] = _Cached(self._clock() + self.seconds, data_key)
        while len(self._keys) > MAX_DATA_KEYS:
            self._keys.popitem(last=False)

    def expire(self) -> None:
        """Discard the data keys whose time has expired: the first ones, in the order of adding."""
        now = self._clock()
        while self._keys and next(iter(self._keys.values())).until <= now:
            self._keys.popitem(last=False)

    def clear(self) -> None:
        """Discard all data keys."""
        self._keys.clear()

    def __len__(self) -> int:
        return len(self._keys)
