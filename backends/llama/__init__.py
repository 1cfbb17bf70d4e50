"""llama.cpp through llama-cpp-python: engine and session, the user's call taken over, its arguments translated."""

from ..extras import require

require("llama", "llama_cpp")
