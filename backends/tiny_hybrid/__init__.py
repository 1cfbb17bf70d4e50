"""The bundled hybrid, short convolutions and attention in turn: weights, tokenizer and template (package data)."""
