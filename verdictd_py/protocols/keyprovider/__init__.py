"""ocicrypt's key provider protocol: its JSON, its parameter, its annotation packet.

Decodes bytes into typed requests and encodes results (wire-keyprovider.md), without IO or
encryption.
"""
