"""HTTP listener: RCAR for current guests, and the administration that tools expect of a KBS.

`server` is HTTP and its limits; `guests` and `admins` are the routes; `answers` is the table of
errors and their answers; `tls` is the listener's certificate; `description` is OpenAPI;
`library` imports aiohttp.
"""

from verdictd_py.listeners.kbs.library import load_cas  # first: it imports aiohttp
from verdictd_py.listeners.kbs.server import KbsListener

__all__ = ["KbsListener", "load_cas"]
