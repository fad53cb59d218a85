"""Formats that other projects define, read and written without IO.

DER, CBOR, TCG event logs, init-data, containers-policy.json and OpenPGP certificates. Each
module raises its own error, whatever bytes it is given.
"""
