"""Our sampling policies as entries of vLLM's SamplingParams, where both mean the same distribution."""

from __future__ import annotations

from typing import Any

from reasonctl.controller import Chain, ControllerError, Greedy, MinP, Policy, Temperature, TopK, TopP

ORDER: tuple[type[Any], ...] = (Temperature, MinP, TopK, TopP)
"""The stages that vLLM has too, in its order."""


def sampling_of(policy: Policy | None) -> dict[str, Any]:
    """The entries of a policy.

    >>> from reasonctl.controller import parse_policy
    >>> sampling_of(parse_policy("temperature(0.6) | top_p(0.95)"))
    {'temperature': 0.6, 'top_p': 0.95}
    >>> sampling_of(parse_policy("greedy"))
    {'temperature': 0.0}

    Raises:
        ControllerError: vLLM has no such sampling, or does it in another order.
    """
    if isinstance(policy, Greedy):
        return {"temperature": 0.0}
    stages = policy.stages if isinstance(policy, Chain) else ()
    places = [ORDER.index(type(stage)) if type(stage) in ORDER else -1 for stage in stages]
    if not isinstance(policy, Chain) or -1 in places or sorted(set(places)) != places:
        raise ControllerError(
            f"policy is {policy}, and vLLM samples by temperature, min_p, top_k and top_p, in this order; give such a "
            "policy, or leave --engine vllm out"
        )
    made: dict[str, Any] = {"temperature": 1.0}
    for stage in stages:
        if isinstance(stage, Temperature):
            made["temperature"] = stage.t
        elif isinstance(stage, TopK):
            made["top_k"] = stage.k
        elif isinstance(stage, TopP | MinP):
            made[stage.name] = stage.p
    return made
