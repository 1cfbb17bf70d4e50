"""Where a run's thinking opens, where it may end and what its answer is, read from text alone.

Nothing here decides to exit: an exit rule does, and its contract is in `exit_rule.py`.
"""
