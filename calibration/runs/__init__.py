"""Making recorded runs and keeping them.

`records.py` is what is recorded, `worker.py` makes one run, `collect.py` makes all of a job, and `run_file.py` keeps
them on disk; `kept.py` names the files for Ctrl-C.
"""
