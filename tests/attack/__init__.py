"""Attacks on the broker, one small test for each; docs/threat-model.md is the table of them."""
