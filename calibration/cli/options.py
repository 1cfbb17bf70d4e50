"""The shared options of a command, as one value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from reasonctl.backends import BUNDLED, check_cores, cores
from reasonctl.controller import ControllerError, parse_draft, parse_policy
from reasonctl.controller.drafting.models import DraftModel
from reasonctl.probes import Promise
from reasonctl.probes.risk import Mode

from ..runs.recipe import Backend
from .refusal import refuse


@dataclass(frozen=True)
class Options:
    """The shared options as they were given; `flags.py` describes each."""

    json: bool
    seed: int
    temperature: float | None
    policy: str | None
    draft: str
    max_new_tokens: int | None
    n: int | None
    mode: Mode
    risk: float
    confidence: float | None
    force: bool
    dry_run: bool
    time_limit: float | None
    """Seconds after which collecting stops. None: no limit."""
    backend: Backend | None
    workers: int | None
    threads: int | None
    grader: str | None
    signal: str
    domain: str | None
    give_up: float | None
    batch: int
    """Runs that are decoded together."""
    given: frozenset[str] = frozenset()
    """Names of the options on the command line, even those with a default's value."""
    chosen: frozenset[str] = frozenset()
    """The same, and those whose value comes from an environment variable or a file of defaults."""

    def check(self) -> None:
        """Check the options that need no model.

        Raises:
            ControllerError: The promise, the policy or the draft is impossible, or the machine has too few cores.
        """
        check_cores("threads", self.threads)
        check_cores("workers", self.workers)
        _ = self.promise
        self.policy_text()
        parse_draft(self.draft, lambda name: cast(DraftModel, None))  # opened when the model is

    def batched(self, runs: int) -> Options:
        """The same in batches of so many runs, if the user names no batch."""
        return self if "batch" in self.chosen else replace(self, batch=runs)

    def refuse(self, command: str, *names: str, because: str) -> None:
        """Refuse options that mean nothing to the command; see `refusal.refuse`."""
        refuse(command, self.given, dict.fromkeys(names, because))

    def policy_text(self, default: str = "temperature(0.6)") -> str:
        """The policy's text: `--policy`, or made from `--temperature` (0 = greedy), or the default.

        Raises:
            ControllerError: Both options were given, or the text is no policy.
        """
        text = self.policy
        if text is None and self.temperature is not None:
            text = "greedy" if self.temperature == 0 else f"temperature({self.temperature:g})"
        elif text is not None and self.temperature is not None:
            raise ControllerError("--policy and --temperature were both given; put the temperature into the policy")
        parse_policy(text or default)
        return text or default

    def machine(self, model: str) -> tuple[int, int | None]:
        """The number of worker processes, and the threads of each (None: the library's choice).

        The bundled models are small, so by default they get a process for each core.
        """
        if self.backend == "vllm":
            return 1, None  # its engine has processes of its own
        if model in BUNDLED:
            return self.workers or cores(), self.threads or 1
        return self.workers or 1, self.threads

    @property
    def promise(self) -> Promise:
        """The promise that is asked for.

        Raises:
            ControllerError: It is impossible.
        """
        return Promise(self.mode, self.risk, self.confidence, self.signal, self.domain, self.give_up)
