"""The bundled model's probe, apart from the weights that every engine reads (package data)."""
