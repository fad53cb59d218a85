"""Attacks on the broker, one small test for each; see docs/design/threats.md."""
