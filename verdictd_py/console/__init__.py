"""Web console for operators: pages that the broker renders, and their listener.

A page is made in three steps. `operations` calls methods of the management API in the name of the
person who is signed in, so that rights, checks and audit are those of `verdict-py`. `views` turns
the answers into values that a template displays. `rendering` renders the template, escaped and in
the person's language. `views` and `rendering` know no server: `verdict-py` writes the same pages to
files.
"""
