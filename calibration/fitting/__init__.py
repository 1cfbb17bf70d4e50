"""From recorded runs to a probe file."""
