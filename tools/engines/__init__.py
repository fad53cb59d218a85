"""Real engines for tests: PostgreSQL, Valkey, SoftHSM2 and OpenBao (`./dev engines`).

Each engine is a class with a private directory: `start` makes what is missing, starts the server
if it does not run, and returns the environment variables by which tests reach it; `stop` ends it.
Tests that kill or restart an engine make one of their own in a temporary directory.
"""
