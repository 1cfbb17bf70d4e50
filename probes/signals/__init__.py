"""From what was observed at a cue to one number."""
