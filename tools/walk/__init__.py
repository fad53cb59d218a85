"""Run the commands of pages word for word, and compare what they print.

CONTRIBUTING.md, "Pages", says how to write a page for it; `pages.py` has the notation.
"""
