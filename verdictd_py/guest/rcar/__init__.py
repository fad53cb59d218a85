"""The guest's side of RCAR, written from the documents alone.

It shares no code with the broker's side (the room `verdictd_py.rcar`), so that each tests the
other, and it speaks to any KBS. `session` is what a guest does; `messages`, `keys`, `jwe` and
`token` are what is said; `evidence` is what it shows; `http` is the network; `unwrap` opens
layer keys with what it fetched.
"""
