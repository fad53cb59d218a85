"""Use cases: appraise a peer, release to it, wrap and unwrap for the image owner.

Knows no transport, no format of evidence that is verified and no storage: the ports of `domain`,
and the values that two protocols are made of (`keyprovider`, `rcar`).
"""
