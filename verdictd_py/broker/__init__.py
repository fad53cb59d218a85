"""Use cases: appraise a peer, release secrets to it, wrap and unwrap keys, administer the broker.

These modules depend on no transport, no TEE and no storage, only on `ports`, `domain` and the
values of the protocols.
"""
