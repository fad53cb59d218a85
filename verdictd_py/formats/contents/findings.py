"""Findings about a content, and the generations of guests that they concern."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Generation(StrEnum):
    """Generation of guests: the releases of guest-components whose image-rs reads alike."""

    V0_8 = "v0.8"
    V0_9 = "v0.9 to v0.18"
    V0_19 = "v0.19"
    V0_20 = "v0.20 and later"


EVERY: Final = frozenset(Generation)
BEFORE_0_19: Final = frozenset({Generation.V0_8, Generation.V0_9})
NONE: Final[frozenset[Generation]] = frozenset()


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding about a content.

    Attributes:
        text: cause and remedy in one line, without bytes of a secret.
        unusable: generations that cannot use the content for this reason; none for a remark.
    """

    text: str
    unusable: frozenset[Generation] = EVERY


@dataclass(frozen=True, slots=True)
class Findings:
    """Result of a check.

    Attributes:
        problems: why no guest can use the content; empty if some guests can.
        warnings: why some guests cannot use it, with their generation, and remarks.
        usable: generations that can use it.
    """

    problems: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    usable: frozenset[Generation] = EVERY

    @classmethod
    def of(cls, findings: Iterable[Finding]) -> Findings:
        """Divide findings into problems and warnings.

        Findings about different generations are problems if together they leave no guest.
        """
        listed = tuple(findings)
        usable = EVERY.difference(*(finding.unusable for finding in listed))
        problems: list[str] = []
        warnings: list[str] = []
        for finding in listed:
            if finding.unusable and not usable:
                problems.append(finding.text)
            else:
                warnings.append(f"{finding.text}{_guests(finding.unusable)}")
        return cls(tuple(problems), tuple(warnings), usable)

    def __add__(self, other: Findings) -> Findings:
        return Findings(
            self.problems + other.problems,
            self.warnings + other.warnings,
            self.usable & other.usable,
        )


def _guests(unusable: frozenset[Generation]) -> str:
    if not unusable:
        return ""
    named = ", ".join(generation for generation in Generation if generation in unusable)
    return f"; guests with guest-components {named} cannot use it"
