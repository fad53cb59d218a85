"""How many examples Hypothesis tries, and its profiles: `default`, `thorough`, and `quick`.

`HYPOTHESIS_PROFILE=thorough ./dev test tests/formats` tries 5000 examples of every property.
`quick` tries few examples, the same ones each time: `./dev mutants` repeats a test often.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

THOROUGH_EXAMPLES: Final = 5000
QUICK_EXAMPLES: Final = 20


def load_profile() -> None:
    """Load the profile that HYPOTHESIS_PROFILE names; without it, `default`.

    No profile has deadlines: on a loaded machine a good example takes long. pytest-timeout ends
    a test that hangs.
    """
    settings.register_profile(
        "default", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True
    )
    settings.register_profile(
        "thorough", settings.get_profile("default"), max_examples=THOROUGH_EXAMPLES
    )
    settings.register_profile(
        "quick",
        settings.get_profile("default"),
        max_examples=QUICK_EXAMPLES,
        derandomize=True,
        database=None,
    )
    settings.load_profile(_profile())


def examples(count: int) -> settings:
    """Return settings for `count` examples, or for as many as another profile tries."""
    counts = {"thorough": THOROUGH_EXAMPLES, "quick": min(count, QUICK_EXAMPLES)}
    return settings(max_examples=counts.get(_profile(), count))


def _profile() -> str:
    return os.environ.get("HYPOTHESIS_PROFILE", "default")
