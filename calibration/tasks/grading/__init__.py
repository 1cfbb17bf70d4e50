"""Whether two worded answers say the same: numbers with units, dates, options, lists and words as a person reads them.

`plain_answers.py` compares; `mathematics.py` asks math-verify about formulas, inside a process with limits
(`limited.py`), since what a model wrote may take for ever to evaluate.
"""
