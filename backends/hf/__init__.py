"""Hugging Face transformers: engine and session, the user's call taken over, its arguments translated."""

from ..extras import require

require("hf", "torch", "transformers")
