"""From recorded runs to a probe file: `job.py` is the whole way, the other files are its steps."""
