"""Long tests with real daemon processes: floods, kills, faults, wrong clocks, many guests.

`./dev torture` runs them; docs/reliability.md has the table of the last run. Each scenario is an
asynchronous generator of rows (`tools.torture.scenario`) in a module of its own.
"""

import os

# Otherwise gRPC writes to standard error whenever an engine is started. It is read at the import.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "false"
