"""structlog without rich, which it imports for tracebacks on a terminal: a twentieth of the start.

The daemon writes no traceback. rich is not a dependency, but other software may have installed it.
"""

from __future__ import annotations

import sys

if "rich" in sys.modules or "structlog" in sys.modules:
    import structlog as structlog
else:
    # The import of a module fails while `sys.modules` has None for it, as if it were not
    # installed (The Python Language Reference, 5.3.1).
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog as structlog
    finally:
        del sys.modules["rich"]
