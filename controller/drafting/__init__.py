"""Where drafted tokens come from, and how many of them are worth verifying.

A draft never changes what is emitted.
"""
