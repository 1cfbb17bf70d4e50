"""Which exit rule a command uses: the probe file's, at the risk and for the signal that were asked for."""

from __future__ import annotations

from reasonctl.backends.model import Model
from reasonctl.probes.exit import ProbeExit, make_exit
from reasonctl.probes.files.probe_file import load_probe

from .options import Options, open_model, probe_path
from .show import Show


def open_rule(show: Show, name: str, options: Options, probe: str | None) -> tuple[ProbeExit, Model]:
    """The rule, compared with the model that it will control; differences are shown."""
    rule = rule_of(options, probe_path(name, probe))
    model = open_model(name, options)
    for warning in rule.check(model):
        show.say(f"warning: {warning}", "yellow")
    return rule, model


def rule_of(options: Options, path: object) -> ProbeExit:
    """The rule of a probe file under the options' risk, confidence, mode, signal and domain."""
    return make_exit(
        load_probe(str(path)), risk=options.risk, confidence=options.confidence, mode=options.mode,
        signal=options.signal, domain=options.domain, give_up=options.give_up,
    )  # fmt: skip
