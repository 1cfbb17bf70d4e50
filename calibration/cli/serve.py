"""`ctl serve`: an OpenAI-compatible endpoint over one model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reasonctl.backends import BUNDLED
from reasonctl.backends.extras import LIBRARIES, require
from reasonctl.controller import Controller, ControllerError, ExitRule, Policy, parse_efforts, parse_policy
from reasonctl.controller.thinking import read_template

from ..learning import CLIENT_SHARE, LearnedSettings, audited, learn, share_of_keys
from ..runs.making import PreparedRun, check_batch
from ..tasks.graders import MATH, NUMBER
from .console import Console
from .flags import PROMISE
from .options import Options
from .recipes import Opened, open_any
from .run import budget_of

AT_ONCE = 8
"""Runs that share forwards where nobody asks for a number."""


def serve(name: str, options: Options, *, probe: str | None, **what: Any) -> None:
    """Serve a model until the process is asked to end. what: the command's own options, by name."""
    require("serve", *LIBRARIES["serve"])
    from reasonctl.backends.server.guard import Access, read_keys
    from reasonctl.backends.server.limits import ServerLimits
    from reasonctl.backends.server.service import Served, Service
    from reasonctl.backends.server.serving import serve as run

    show = Console(as_json=False)
    access = Access(what["host"], read_keys(what["key_file"]), what["allow_host"], what["allow_origin"])
    presets = presets_of(what["preset"])
    options = options.batched(AT_ONCE)
    if what["learn"] is None:
        opened = open_any(
            show, "ctl serve", name, options, probe, *PROMISE, "audit", because="nothing decides on exits"
        )
        options.refuse("ctl serve without --learn", "client_share", because="nothing is learned from clients")
        rule = watched(opened, options, what["audit"], what["audits"])
    else:
        share = share_of_clients(show, options, what["client_share"], len(access.keys))
        opened, rule = learning(show, name, options, what["learn"], what["audit"], share)
    controller = replace(controller_of(opened, what["budget"], what["efforts"]), exit=rule)
    check_places(opened, controller, options.batch)
    served = Served(
        opened.model,
        controller,
        opened.recipe.parsed_policy(),
        opened.recipe.max_new_tokens,
        options.batch,
        presets,
        ServerLimits(queue=what["queue"], prefix_tokens=what["prefix_tokens"], request_seconds=what["request_seconds"]),
    )
    service = Service(served)

    def announce(address: str) -> None:
        keys = keys_in_words(len(access.keys))
        show.say(f"{service.served.name} on http://{address}/v1 ({keys}; {options.batch} runs at once)")

    run(service, access, what["port"], announce)


def keys_in_words(keys: int) -> str:
    """Who may ask."""
    return f"{keys} key{'s' if keys > 1 else ''}" if keys else "no key, this machine only"


def watched(opened: Opened, options: Options, share: float | None, file: str | None) -> ExitRule | None:
    """The exit rule, with audits where they are asked for.

    Raises:
        ControllerError: The promise can't be watched, or the file can't be used.
    """
    if share is None or opened.rule is None:
        options.refuse("ctl serve without --audit", "audits", because="there are none")
        return opened.rule
    return audited(opened.rule, share=share, file=file)


def share_of_clients(show: Console, options: Options, asked: float | None, keys: int) -> float:
    """Largest share of a promise's runs that one client may have. Without several keys all clients are one.

    Raises:
        ControllerError: So few keys never come to a promise.
    """
    if keys < 2:
        options.refuse("ctl serve --learn without several keys", "client_share", because="its clients are all one")
        show.say("one client: without several keys nobody knows its clients apart, and any of them may teach the rule")
        return 1.0
    return share_of_keys(keys, CLIENT_SHARE if asked is None else asked)


def learning(
    show: Console, name: str, options: Options, store: str, share: float | None, client_share: float
) -> tuple[Opened, ExitRule]:
    """The model without a probe, and the rule that learns from its traffic.

    Raises:
        ControllerError: The store can't be used, or an option means nothing to it.
    """
    nothing = ("probe", "audits", "signal", "domain", "give_up")
    options.refuse("ctl serve --learn", *nothing, because="the rule comes from the traffic")
    if options.confidence is None or ("mode" in options.given and options.mode != "disagree"):
        raise ControllerError("--learn knows no right answers: it takes --mode disagree, and a --confidence")
    opened = open_any(show, "ctl serve", name, options, "none", because="")
    recipe, default = opened.recipe, LearnedSettings()
    settings = LearnedSettings(
        confidence=options.confidence,
        share=default.share if share is None else share,
        markers=recipe.markers,
        cues=recipe.cues,
        suffix=recipe.suffix,
        answer_ends=recipe.answer_ends,
        answer_tokens=recipe.answer_tokens,
        layers=recipe.layers,
    )
    grader = NUMBER if name in BUNDLED else MATH
    rule = learn(store, risk=options.risk, settings=settings, grader=grader, client_share=client_share)
    for warning in rule.check(opened.model):
        show.say(f"warning: {warning}", "yellow")
    show.say(rule.why)
    return opened, rule


def controller_of(opened: Opened, budget: str | None, efforts: str | None) -> Controller:
    """The controller of requests that say nothing else.

    Raises:
        ControllerError: A text is no budget or defines no effort.
    """
    number = budget_of(budget)
    named = {} if efforts is None else parse_efforts(efforts)
    recipe, model = opened.recipe, opened.model
    marked = read_template(model.template).markers is not None
    thinking = recipe.thinking(model) if opened.rule is None and (marked or number is not None) else None
    return Controller(exit=opened.rule, drafter=recipe.drafter(), thinking=thinking, budget=number, efforts=named)


def check_places(opened: Opened, controller: Controller, at_once: int) -> None:
    """Raise ControllerError if runs of the default length don't fit in all places together; prompts aren't known."""
    check_batch(opened.model, [PreparedRun(controller, opened.recipe.call(opened.model, ""))], at_once)


def presets_of(texts: tuple[str, ...]) -> dict[str, Policy]:
    """Policies by name, from NAME=POLICY.

    Raises:
        ControllerError: One is no such text.
    """
    found = dict[str, Policy]()
    for text in texts:
        name, given, policy = text.partition("=")
        if not given or not name.strip().isidentifier():
            raise ControllerError(f"--preset is {text!r:.60}; give NAME=POLICY, e.g. 'careful=temperature(0.3)'")
        found[name.strip()] = parse_policy(policy)
    return found
