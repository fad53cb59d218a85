"""A reference guest: proves itself to a broker and asks, as real guests do.

Used by the command line and by tests; nothing the daemon loads imports it.
"""
