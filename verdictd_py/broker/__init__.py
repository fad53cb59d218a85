"""Use cases: appraise a peer, release to it, wrap and unwrap for the image owner.

Knows no transport, no evidence format and no storage: only the ports of `domain`.
"""
