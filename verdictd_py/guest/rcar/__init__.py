"""The guest's side of RCAR, written from the documents alone.

It shares no code with the broker's side (`verdictd_py.protocols.rcar`), so that each tests the
other, and it works with any KBS. `session` has the guest's steps; `messages`, `keys`, `jwe` and
`token` encode and decode; `evidence` collects evidence; `http` is the network; `unwrap` unwraps
layer keys with keys from a KBS.
"""
