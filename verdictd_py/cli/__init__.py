"""Command lines: argv -> settings -> run. Nothing else is decided here."""

import os

# gRPC writes lines of its own to standard error, where a line is one of ours; it reads this when
# it is loaded. Whoever looks for the cause of a failed handshake sets it to INFO.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
