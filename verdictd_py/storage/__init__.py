"""Stores of keys, resources, documents and sessions, in a data directory or in memory."""
