"""The HTTP listener: RCAR for today's guests, and what their operators' tools expect of a KBS.

`server` is HTTP and its limits; `guests` and `admins` are the routes; `answers` says how each
of our errors is answered; `tls` is the listener's certificate; `description` is OpenAPI.
"""

from verdictd_py.listeners.kbs.server import KbsListener

__all__ = ["KbsListener"]
