"""Intel's collateral: its forms, where it comes from, how it is cached and checked."""
