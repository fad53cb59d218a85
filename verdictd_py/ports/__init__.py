"""What the broker needs from outside, as interfaces, a file for each subject.

Stores are asynchronous: directories are the embedded default, but no caller may assume
a file, a single process or a cheap listing.
"""

from verdictd_py.ports.collateral import CollateralStore
from verdictd_py.ports.documents import Document, DocumentStore
from verdictd_py.ports.events import Events
from verdictd_py.ports.policies import (
    NO_QUERY,
    AppraisalPolicy,
    PolicyDocuments,
    PolicyReporter,
    PolicySource,
    PolicyTester,
    ReleasePolicy,
    TestedPolicy,
)
from verdictd_py.ports.revisions import ABSENT, ANY, Expected, meets, revision_of
from verdictd_py.ports.sessions import SessionStore
from verdictd_py.ports.stores import (
    KeyringEditor,
    KeyStore,
    Kind,
    ResourceStore,
    StoredName,
    StoredObject,
)
from verdictd_py.ports.tees import Tee, Tees, VerifierContext
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
    "KeyStore",
    "KeyringEditor",
    "Kind",
    "PolicyDocuments",
    "PolicyReporter",
    "PolicySource",
    "PolicyTester",
    "ReleasePolicy",
    "ResourceStore",
    "SessionStore",
    "StoredName",
    "StoredObject",
    "Tee",
    "Tees",
    "TestedPolicy",
    "Verifier",
    "VerifierContext",
    "meets",
    "revision_of",
]
