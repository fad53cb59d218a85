"""The table of all pages and changes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from verdictd_py.console import pages_audit as audit
from verdictd_py.console import pages_collateral as collateral
from verdictd_py.console import pages_guests as guests
from verdictd_py.console import pages_keys as keys
from verdictd_py.console import pages_overview as overview
from verdictd_py.console import pages_policies as policies
from verdictd_py.console import pages_reference as reference
from verdictd_py.console import pages_release as release
from verdictd_py.console.site import Change, FailedPage, Page

PAGES: Final[Mapping[str, Page]] = {
    "/": overview.overview_page,
    "/guests": guests.guests_page,
    "/guests/{id}": guests.guest_page,
    "/reference": reference.reference_page,
    "/policies": policies.policies_page,
    "/release": release.release_page,
    "/keys": keys.keys_page,
    "/collateral": collateral.collateral_page,
    "/audit": audit.audit_page,
    "/audit/export": audit.audit_export,
}

CHANGES: Final[Mapping[str, Change]] = {
    "/guests/{id}/pin": guests.pin,
    "/guests/disconnect": guests.disconnect,
    "/reference/retire": reference.retire,
    "/reference/delete": reference.delete,
    "/policies/set": policies.store,
    "/keys/create": keys.create,
    "/keys/delete": keys.delete,
    "/resources/delete": keys.delete_resource,
}

FORMS: Final[Mapping[str, tuple[str, FailedPage]]] = {
    "/guests/{id}/pin": ("/guests/{id}", guests.guest_page),
    "/guests/disconnect": ("/guests", guests.guests_page),
    "/reference/retire": ("/reference", reference.reference_page),
    "/reference/delete": ("/reference", reference.reference_page),
    "/policies/set": ("/policies", policies.policies_page),
    "/keys/create": ("/keys", keys.keys_page),
    "/keys/delete": ("/keys", keys.keys_page),
    "/resources/delete": ("/keys", keys.keys_page),
}
"""Pages with the form of each change, which are displayed again if it is refused."""
