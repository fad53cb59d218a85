"""Gauges that are read when a page of metrics is written."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Reading:
    """Values of a gauge that the operator process reads from its parts.

    Attributes:
        name, help: as those of `Family`.
        labels: names of the labels.
        values: value by the values of the labels.
    """

    name: str
    help: str
    labels: tuple[str, ...]
    values: dict[tuple[str, ...], float]
