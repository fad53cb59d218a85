"""Shells around the broker: sockets, TLS, gRPC. They decide nothing about release."""
