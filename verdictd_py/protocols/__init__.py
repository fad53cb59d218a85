"""Conversations with guests and key provider clients, without IO: bytes in, typed values out.

`ratstls` and `eaa` serve guests on the attested TLS channel, `rcar` serves HTTP guests,
`keyprovider` serves skopeo and buildah. Time and randomness are arguments.
"""
