"""Tests of the pages below docs/design."""
