"""Tests of the tools that developers and CI run."""
