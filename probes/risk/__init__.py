"""From a table of recorded runs and a named risk to a threshold, with exact bounds."""
