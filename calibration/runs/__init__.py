"""Making recorded runs and keeping them."""
