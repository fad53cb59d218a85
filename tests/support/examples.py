"""How many examples Hypothesis tries, and its profiles: `default`, and `thorough` for long runs.

`HYPOTHESIS_PROFILE=thorough ./dev test tests/formats` tries 5000 examples of every property.
"""

from __future__ import annotations

import os
from typing import Final

from hypothesis import HealthCheck, settings

THOROUGH_EXAMPLES: Final = 5000


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
    settings.load_profile(_profile())


def examples(count: int) -> settings:
    """Return settings for `count` examples in the profile `default`, and for all in `thorough`."""
    return settings(max_examples=THOROUGH_EXAMPLES if _profile() == "thorough" else count)


def _profile() -> str:
    return os.environ.get("HYPOTHESIS_PROFILE", "default")
