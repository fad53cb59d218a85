"""Tests of the daemon's life: listeners, background work, start, reload, stop."""
