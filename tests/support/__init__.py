"""Helpers for the tests of several packages: running brokers, guests, clients, vectors."""
