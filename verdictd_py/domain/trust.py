"""Values of a trustworthiness vector (draft-ietf-rats-ar4si, 2.3), for attestation tokens."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

TrustVector = Mapping[str, int]
"""Value by member (`hardware`, `executables`, `configuration`); what was not examined is absent."""

HARDWARE_GENUINE: Final = 2
"""The hardware passed its appraisal and is up to date."""

HARDWARE_WARNING: Final = 32
"""The hardware is genuine and has known weaknesses."""

HARDWARE_UNKNOWN: Final = 97
"""The hardware is not recognized as genuine."""

EXECUTABLES_APPROVED: Final = 2
"""All measured software is recognized and approved."""

EXECUTABLES_UNRECOGNIZED: Final = 33
"""Some measured software is not recognized."""

CONFIGURATION_NOT_UNSAFE: Final = 3
"""Nothing in the configuration is known to be unsafe."""

WARNING: Final = 32
"""First value of the tier `warning`; lower values are `affirming`."""

CONTRAINDICATED: Final = 96
"""First value of the tier `contraindicated`."""
