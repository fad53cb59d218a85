"""Guest workers: processes that serve guests, and the operator process that starts them (ADR 20).

`channel` connects the two; `pool` is the operator's side, `worker` is a worker's side, `start` is
what a worker receives at its start.
"""
