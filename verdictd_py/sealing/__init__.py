"""Sealing of stored objects: envelopes, and the providers of key-encryption keys.

`registry` opens what `--seal` names, `sealer` makes and opens envelopes with it, `datakeys` caches
unwrapped data keys if the operator has chosen so, and the other modules are providers.
"""
