"""`attach`: one call for every library. Only the library that the model comes from is imported."""

from __future__ import annotations

from typing import Any

from reasonctl.controller import Controller, ControllerError

from .handle import Handle


def attach(model_or_llm: Any, controller: Controller, *, tokenizer: Any = None, fold_attention: bool = False) -> Handle:
    """Control every later generate call of a model.

    Args:
        model_or_llm: a transformers model or a llama_cpp.Llama.
        controller: exit rule, policy, drafter and limits.
        tokenizer: the transformers tokenizer; needed for exit rules and stop strings, not used by llama.cpp.
        fold_attention: transformers only. Rows without a draft fold the query heads that share a key head into one
            matrix, as rows with a draft do. Steps over thousands of tokens of context are faster for it. Logits then
            differ from the library's by rounding, which in bfloat16 and float16 can turn a close choice.

    Returns:
        The way to read traces and to detach.

    Raises:
        ControllerError: an argument is of another kind, or the model can't run under this controller.
    """
    if not isinstance(controller, Controller):
        raise ControllerError(
            f"controller is a {type(controller).__name__}; give a Controller, such as Controller(exit=rule) "
            "with rule = load_exit('my.probe.safetensors')"
        )
    libraries = {base.__module__.partition(".")[0] for base in type(model_or_llm).__mro__}
    if "llama_cpp" in libraries:
        from .llama.attach import attach_llama

        if fold_attention:
            raise ControllerError("fold_attention is for transformers; llama.cpp has kernels of its own: leave it out")
        return attach_llama(model_or_llm, controller)
    if "transformers" in libraries:
        from .hf.attach import attach_transformers

        return attach_transformers(model_or_llm, controller, tokenizer=tokenizer, fold_attention=fold_attention)
    kind = type(model_or_llm)
    home = "" if kind.__module__ == "builtins" else f"{kind.__module__}."
    raise ControllerError(
        f"can't attach to an object of type {home}{kind.__qualname__}; give a transformers model or a llama_cpp.Llama"
    )
