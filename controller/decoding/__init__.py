"""The one loop: it asks for forwards, lets the policy draw, and follows the draft.

`loop.py` walks, `transcript.py` holds the text, and `close_thinking.py` decides once per token whether thinking closes.
`drivers.py` runs one loop, and `scheduler.py` runs many.
"""

from .samples import MOST_SAMPLES

__all__ = ["MOST_SAMPLES"]
