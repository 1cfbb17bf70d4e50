"""One family of stages per file: temperatures, truncations, penalties, constraints."""
