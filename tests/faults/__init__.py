"""Tests of what happens when the broker's surroundings fail, and of its life cycle."""
