"""Listeners: sockets, TLS, gRPC and HTTP around the broker. They make no release decision."""
