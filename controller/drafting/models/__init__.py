"""Drafts that a model proposes: chains, trees, and TriForce's two levels."""
