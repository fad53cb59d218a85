"""Ports: interfaces of everything that the broker needs from outside, one module per subject.

Stores are asynchronous. Directories are the default, but callers must not assume files, a
single process, or cheap listings.
"""

from verdictd_py.ports.collateral import CollateralStore
from verdictd_py.ports.documents import Document, DocumentStore
from verdictd_py.ports.events import Events
from verdictd_py.ports.known_tees import Tees
from verdictd_py.ports.policies import (
    NO_QUERY,
    AppraisalPolicy,
    Failures,
    PolicyDecision,
    PolicyDocuments,
    PolicyReporter,
    PolicyRevisions,
    PolicySource,
    PolicyTester,
    ReleasePolicy,
)
from verdictd_py.ports.revisions import ABSENT, ANY, Expected, has_revision, revision_of
from verdictd_py.ports.sessions import SessionStore
from verdictd_py.ports.stores import (
    KeyringEditor,
    KeyStore,
    Kind,
    ResourceStore,
    StoredName,
    StoredObject,
)
from verdictd_py.ports.tees import Tee, VerifierContext
from verdictd_py.ports.verifier import Verifier

__all__ = [
    "ABSENT",
    "ANY",
    "NO_QUERY",
    "AppraisalPolicy",
    "CollateralStore",
    "Document",
    "DocumentStore",
    "Events",
    "Expected",
    "Failures",
    "KeyStore",
    "KeyringEditor",
    "Kind",
    "PolicyDecision",
    "PolicyDocuments",
    "PolicyReporter",
    "PolicyRevisions",
    "PolicySource",
    "PolicyTester",
    "ReleasePolicy",
    "ResourceStore",
    "SessionStore",
    "StoredName",
    "StoredObject",
    "Tee",
    "Tees",
    "Verifier",
    "VerifierContext",
    "has_revision",
    "revision_of",
]
