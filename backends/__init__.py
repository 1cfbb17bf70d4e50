"""How to run a model: engines and sessions over transformers and llama.cpp, and `attach`.

`attach.py` and `load.py` choose the library. `hf/` and `llama/` run it and take over the user's call.
"""

from .attach import attach
from .handle import Handle
from .listing import LocalModel, Shape, hub_problem, local_models
from .load import (
    BUNDLED,
    BUNDLED_PROBE,
    TINY,
    TINY_MASKED,
    backend_of,
    is_masked,
    load_drafter,
    load_masked,
    load_model,
    tiny_folder,
)
from .machine import check_cores, cores
from .masked import MaskedText
from .model import Message, Model

__all__ = [
    "BUNDLED",
    "BUNDLED_PROBE",
    "Handle",
    "LocalModel",
    "MaskedText",
    "Message",
    "Model",
    "Shape",
    "TINY",
    "TINY_MASKED",
    "attach",
    "backend_of",
    "check_cores",
    "cores",
    "hub_problem",
    "is_masked",
    "load_drafter",
    "load_masked",
    "load_model",
    "local_models",
    "tiny_folder",
]
