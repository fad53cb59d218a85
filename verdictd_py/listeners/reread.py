"""Content of the operator's files that the daemon reads again on SIGHUP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Generic, Protocol, TypeVar

T = TypeVar("T")


class Reloadable(Protocol):
    """Something that can be read again while the daemon runs.

    `restrict` and `removed` are for content that gives rights; other content inherits them.
    """

    def reload(self) -> tuple[str, ...]:
        """Read it again, and put it in force.

        What `restrict` has removed is among the changes.

        Returns:
            What changed, a text for each change; empty if nothing did.

        Raises:
            ConfigError: it cannot be used; the message has the cause and the remedy. The old
                content stays in force.
        """
        ...

    def restrict(self) -> None:
        """Read it again, and put in force only that rights were removed.

        Raises:
            ConfigError: it cannot be used. The old content stays in force.
        """
        return

    def removed(self) -> tuple[str, ...]:
        """Return what `restrict` has removed and no call has returned yet."""
        return ()


class Reread(Generic[T]):
    """Content of files, replaced as a whole when it is read again.

    Args:
        read: reads and checks the files.
        describe: returns what changed from the first argument to the second, without secrets.
        lessen: returns the first argument without the rights that are not in the second.

    Raises:
        ConfigError: the files cannot be used; the message has the cause and the remedy.

    Attributes:
        current: the content in force.
        replaced: whether other content than now was ever in force.
    """

    def __init__(
        self,
        read: Callable[[], T],
        describe: Callable[[T, T], tuple[str, ...]],
        lessen: Callable[[T, T], T],
    ) -> None:
        self._read = read
        self._describe = describe
        self._lessen = lessen
        self.current = read()
        self._reported = self.current
        self.replaced = False

    def reload(self) -> tuple[str, ...]:
        self._adopt(self._read())
        return self.removed()

    def restrict(self) -> None:
        self._adopt(self._lessen(self.current, self._read()))

    def removed(self) -> tuple[str, ...]:
        before, self._reported = self._reported, self.current
        return self._describe(before, self._reported)

    def _adopt(self, content: T) -> None:
        if content != self.current:
            self.replaced = True  # first: `current` may be read by other threads
        self.current = content


def differences(
    what: str, before: Mapping[str, object], after: Mapping[str, object]
) -> tuple[str, ...]:
    """Describe each entry that was added, removed or changed, with its values."""
    changes = []
    for name in sorted(before.keys() | after.keys()):
        if name not in after:
            changes.append(f"{what} {name}: removed, was {before[name]}")
        elif name not in before:
            changes.append(f"{what} {name}: added, {after[name]}")
        elif before[name] != after[name]:
            changes.append(f"{what} {name}: {before[name]}, now {after[name]}")
    return tuple(changes)
