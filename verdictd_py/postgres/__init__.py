"""Store in PostgreSQL: keys, resources, documents, collateral, history and audit heads.

Several brokers share one database. PostgreSQL is not trusted with secrets, or with what decides
about them: every object is sealed (`ports.sealing`), and the *ledger* (`ledger`) authenticates
which revision of which object is the current one. `objects` has the theory of operation.
"""
