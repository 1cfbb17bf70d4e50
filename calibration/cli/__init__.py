"""The `ctl` command: one file a command, and the only room that prints.

`main.py` declares every command, and `flags.py` the options that they share. `ctl eval` is `evaluate.py`; every other
command's file has the command's name; those of diagnostics lie in a folder.
"""
