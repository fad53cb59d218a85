"""Stubs made from protos/. Not edited by hand."""
