"""How much to draft: measured costs, acceptance seen so far, and the shape that pays by both.

`cost.py` and `acceptance.py` are what is known, `experience.py` is what outlives a run, `plan.py` and `payoff.py`
decide.
"""
