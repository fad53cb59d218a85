"""RCAR, the HTTP protocol of current guests, without HTTP: bodies in, typed values out, and back.

Request, Challenge, Attestation, Response. One conversation has three steps, and a session is
all that connects them:

1. `messages.parse_auth` reads an `AuthRequest`; `messages.challenge` writes its `Challenge`.
2. `messages.parse_attest` reads the `Attestation` that answers the challenge, `evidence.read`
   turns it into evidence, and `messages.token` writes the token (`tokens`).
3. `jwe.encrypt` writes a `ReleasedResource`, encrypted to the key of step 2.

Source: wire-rcar.md.
"""
