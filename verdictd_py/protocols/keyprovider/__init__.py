"""ocicrypt's key provider protocol: its JSON, its parameter, its annotation packet.

Bytes in, typed requests out, and back (wire-keyprovider.md). No IO, no ciphers.
"""
