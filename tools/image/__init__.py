"""Builds the image of the broker, its bill of materials and its provenance statement."""
