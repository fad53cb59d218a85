"""The JSON inside the attested channel, for all three generations of guests (wire-eaa.md).

Bytes in, typed requests out (`reader`, `messages`); results in, bytes out (`answers`).
No IO, no clock, no broker.
"""
