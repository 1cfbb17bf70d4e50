"""Where drafted tokens come from, and how many of them are worth verifying.

Read `drafter.py` first: it is the contract. `prompt_lookup.py` and `hierarchy.py` copy from texts, `models/` draws from
a model, `planning/` decides how much. A draft never changes the distribution of what is emitted.
"""
