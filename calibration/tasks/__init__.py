"""Questions, answers and graders.

`sources.py` loads a task, `problem.py` is one question with its answer, and `graders.py` says whether an answer is
right.
"""
