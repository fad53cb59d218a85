"""Vault and OpenBao: key-encryption key (Transit), source of resources (KV version 2), and keys.

`location` reads where a server is and how to log in, `logins` logs in, `client` sends requests and
renews its token, `seal` is the provider `vault:` of `--seal`, `resources` and `keys` are stores,
and `routing` chooses the store of a path.
"""
