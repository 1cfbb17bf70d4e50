"""How much to draft: measured costs, observed acceptance, and the shape that pays."""
