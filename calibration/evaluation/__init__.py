"""What a rule does, next to baseline rules and to no rule.

`pairs.py` runs each problem with and without control; `baselines.py` has the cheap rules and the oracle.
"""
