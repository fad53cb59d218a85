"""Faults of the environment: the directory, its permissions, its file system."""
