"""Directories as the embedded store: keys, resources, policies. Knows no protocol."""
