"""The `ctl` command: one file a command, and the only room that prints."""
