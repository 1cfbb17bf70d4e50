"""What is on disk: a whole file, or an error."""
