"""Changes that are announced to all processes of the broker."""

from __future__ import annotations

from collections.abc import Callable

from verdictd_py.broker.connected import Changes


class ForwardedChanges(Changes):
    """Counter of changes that also tells the other processes about a change in this one.

    Attributes:
        forward: tells the other processes; set after construction.
    """

    def __init__(self) -> None:
        super().__init__()
        self.forward: Callable[[], None] = lambda: None

    def announce(self) -> None:
        self.receive()
        self.forward()

    def receive(self) -> None:
        """Count a change that another process has announced."""
        super().announce()
