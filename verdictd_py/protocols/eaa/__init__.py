"""The JSON inside the attested channel, for all three generations of guests (wire-eaa.md).

`reader` and `messages` decode bytes into typed requests; `answers` encodes results. Nothing
here has IO, a clock or a broker.
"""
