"""Diagnosis of an installation: whether the broker can start here, and serve guests.

Nothing is changed, started or fetched. Each check returns findings (`finding`); `diagnose` runs all
of them:

1. `host`: the sandbox, file descriptors, the clock. They need no settings.
2. `files`: TLS files and keys, roles and administrators, who may read and change them.
3. `addresses`: the ports and sockets of the listeners.
4. `engines`: the databases, servers of sessions and Vaults of the settings; none is contacted.
5. `data`: the data directory, free space, policies, collateral and its source.

The parts of the daemon that are checked here refuse the same faults at the start. A check calls
their functions, so that it cannot judge differently.
"""

from verdictd_py.daemon.diagnosis.finding import Finding, Result

__all__ = ["Finding", "Result"]
