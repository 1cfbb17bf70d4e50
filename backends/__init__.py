"""How to run a model: engines and sessions over transformers and llama.cpp, and `attach`."""

from .attach import attach
from .handle import Handle
from .load import load_model
from .model import Model

__all__ = ["Handle", "Model", "attach", "load_model"]
