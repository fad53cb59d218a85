"""Values that the pages display, computed from answers of the management API without IO."""
