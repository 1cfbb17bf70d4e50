"""The one loop: it asks for forwards, lets the policy draw, and follows the draft.

`loop.py` walks, `drivers.py` runs one loop, and `scheduler.py` runs many.
"""
