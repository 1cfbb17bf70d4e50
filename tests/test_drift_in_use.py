"""The drift monitor where people meet it: in the trace of every run, and in `ctl inspect --traces`."""

from __future__ import annotations

import json

import pytest
from reasonctl.backends.load import load_model, tiny_folder
from reasonctl.calibration.cli import main
from reasonctl.calibration.options import BUNDLED_PROBE
from reasonctl.calibration.tasks import load_task
from reasonctl.controller import Call, Controller, Keys, Trace, parse_policy
from reasonctl.probes import load_exit

PROBE = tiny_folder() / BUNDLED_PROBE


def traces(temperature: str, n: int, stream: int) -> list[Trace]:
    rule, model = load_exit(PROBE), load_model("tiny", threads=1)
    made = []
    for i, problem in enumerate(load_task("tiny").problems(n, stream=stream)):
        call = Call(model.prompt(problem.question), 60, model.eos, Keys(seed=4, run=i), parse_policy(temperature))
        session, trace = model.engine.session(), Trace()
        for _ in Controller(exit=rule).stream(session, model.tokenizer, call, trace):
            pass
        session.close()
        made.append(trace)
    return made


def test_runs_like_the_calibrations_raise_no_alarm_and_others_do(tmp_path, capfd):
    """Fixed seeds; a run like the calibration's raises an alarm, ever, with probability 1 %."""
    same = traces("temperature(0.6)", 60, 91)
    assert [trace.drift["runs"] for trace in same] == list(range(1, 61))
    assert not same[-1].drift["alarm"] and not same[-1].warnings
    other = traces("temperature(2.5)", 60, 91)
    assert other[-1].drift["alarm"] and "calibrate on runs like these" in other[-1].warnings[-1]
    for made, alarm in ((same, False), (other, True)):
        path = tmp_path / f"{alarm}.jsonl"
        path.write_text("".join(json.dumps(trace.to_dict()) + "\n" for trace in made))
        with pytest.raises(SystemExit) as left:
            main(["inspect", str(PROBE), "--traces", str(path), "--json"])
        assert left.value.code == 0
        told = json.loads(capfd.readouterr().out.splitlines()[-1])["drift"]
        assert told == made[-1].drift and told["alarm"] is alarm


def test_a_file_that_holds_no_traces_is_one_line(tmp_path, capfd):
    path = tmp_path / "x.jsonl"
    path.write_text('{"decisions": 3}\n')
    with pytest.raises(SystemExit) as left:
        main(["inspect", str(PROBE), "--traces", str(path)])
    assert left.value.code == 2 and "x.jsonl:1 is no trace" in capfd.readouterr().err
