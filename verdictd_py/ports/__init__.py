"""What the broker needs from outside, as interfaces, a file for each subject.

Stores are asynchronous: directories are the embedded default, but no caller may assume
a file, a single process or a cheap listing.
"""

from verdictd_py.ports.collateral import CollateralStore
from verdictd_py.ports.events import Events
from verdictd_py.ports.policies import (
    AppraisalPolicy,
    DocumentStore,
    PolicyDocuments,
    PolicySource,
    PolicyTester,
    ReleasePolicy,
    TestedPolicy,
)
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
    "AppraisalPolicy",
    "CollateralStore",
    "DocumentStore",
    "Events",
    "KeyStore",
    "KeyringEditor",
    "Kind",
    "PolicyDocuments",
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
]
