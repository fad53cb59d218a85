"""RCAR, the HTTP protocol of current guests, without HTTP: bytes in, values or bytes out.

Request, Challenge, Attestation, Response: a guest asks for a nonce (`messages.parse_auth`),
shows evidence that covers the nonce and a key of its own (`messages.parse_attest`,
`evidence.read`), and gets a token (`tokens`); what it fetches is encrypted to its key (`jwe`).

Source: wire-rcar.md.
"""
