"""Intel's collateral: JSON forms, sources, cache, and verification."""
