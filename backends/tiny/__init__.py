"""The bundled reasoner: weights, tokenizer and template (package data)."""
