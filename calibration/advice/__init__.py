"""What pays on this machine."""
