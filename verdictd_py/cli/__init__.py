"""Command lines: they parse arguments into settings and run a program with them."""

import os

# gRPC would write its own lines to standard error. It reads this variable when it is loaded; set it
# to INFO to find the cause of a failed handshake.
os.environ.setdefault("GRPC_VERBOSITY", "NONE")
