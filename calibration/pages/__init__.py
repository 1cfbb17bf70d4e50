"""Files of numbers as pages for people."""
