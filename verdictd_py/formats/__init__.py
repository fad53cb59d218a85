"""Formats that other projects define, read and written without IO.

DER, CBOR, TCG event logs, init-data, containers-policy.json and OpenPGP certificates. No
input, however malformed, makes a module raise anything but its documented errors.
"""
