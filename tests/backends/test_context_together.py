"""A row's own limit is the context that was asked for, whatever the batch; what is too long is refused by name."""

from __future__ import annotations

import pytest

from reasonctl.backends.hf.engine import HFEngine
from reasonctl.backends.load import load_model
from reasonctl.backends.token_ids import check_fits
from reasonctl.calibration.runs.making import PreparedRun, run_once, run_window
from reasonctl.controller import Call, Controller, ControllerError, Decode, Greedy, Keys, PromptLookup
from support.hf_models import small

CONTEXT = 256
FITS = r"don't fit the .*context of 256"


def models(batch):
    """One of each library, whose runs have a context of 256."""
    yield load_model("tiny", threads=1, batch=batch, context=CONTEXT)
    loaded = load_model("tiny", backend="transformers", threads=1)
    loaded.engine.longest = CONTEXT
    yield loaded


def call_of(model, prompt, most, run=0):
    return Call([7, 9, 11, 8] * (prompt // 4), most, frozenset(), Keys(seed=run), Greedy())


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_prompts_and_runs_beyond_the_context_of_a_run_are_refused_by_name_in_every_batch(batch):
    for model in models(batch):
        assert batch == 1 or model.engine.room > CONTEXT
        for prompt, most in ((400, 4), (240, 40)):
            runs = [PreparedRun(Controller(), call_of(model, n, most, n)) for n in (20, prompt, 40)]
            with pytest.raises(ControllerError, match=FITS):
                run_window(model, runs, batch)
        (made, _) = run_window(model, [PreparedRun(Controller(), call_of(model, n, 16)) for n in (240, 40)], batch)
        assert len(made.trace.tokens) == 16


@pytest.mark.parametrize("batch", [1, 2])
def test_drafts_stop_at_the_context_and_the_run_goes_on(batch):
    for model in models(batch):
        for controller in (Controller(), Controller(drafter=PromptLookup())):
            (made,) = run_window(model, [PreparedRun(controller, call_of(model, 200, 56))], batch)
            assert len(made.trace.tokens) == 56


def test_a_transformers_model_is_loaded_with_its_own_context():
    loaded = load_model("tiny", backend="transformers", threads=1)
    assert loaded.engine.longest == loaded.context == loaded.library.config.max_position_embeddings
    session = HFEngine(small(), longest=8).session()
    assert session.can.free == 8
    session.engine.forward([Decode(session, [1] * 6)])
    assert session.can.free == 2
    with pytest.raises(ControllerError, match="6 tokens and 3 more don't fit the model's context of 8"):
        session.engine.forward([Decode(session, [1] * 3)])
    with pytest.raises(ControllerError, match="^9 tokens don't fit the model's context of 8"):
        check_fits(0, 9, 8)
    assert session.length == 6


def test_a_run_that_fails_gives_its_session_back():
    (model, _) = models(1)
    free = len(model.engine.sequences.free)

    def broken(event):
        raise ValueError("broken")

    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            run_once(model, Controller(), call_of(model, 40, 4), broken)
    assert len(model.engine.sequences.free) == free and model.engine.sequences.committed == 0
