"""A reference guest that attests itself to a broker and requests secrets, as real guests do.

The command line and the tests use it; the daemon never imports it.
"""
