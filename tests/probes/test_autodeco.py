"""AutoDeco as a stage among others: weighed, behind a truncation, and in drafts of a model."""

from __future__ import annotations

import math

import numpy as np
import pytest

from reasonctl.controller import Candidates, Chain, Keys, Row, Temperature, TopK, TopP, log_z
from reasonctl.probes.autodeco import AutoDeco
from reasonctl.probes.files.heads_file import STATISTICS, Heads, HeadsFile, save_heads
from reasonctl.probes.signals.probe import Probe
from support.engines import Plain
from support.heads_files import card, heads_file, made_up

L = np.array([5.0, 4.2, 4.0, 3.1, 2.5, 1.0, 0.3, 0.0, -1.0, -3.0])
STATE = np.array([0.3, -1.0, 2.0])


class WithState(Plain):
    def hidden(self, node, layer):
        return STATE


def row() -> Row:
    return Row(WithState(L), -1, [0, 1], "answer", Keys(seed=0))


def constant(path, temperature: float, top_p: float) -> AutoDeco:
    """Heads that say the same of every row."""

    def head(n: int, p: float) -> Probe:
        return Probe((np.zeros((n, 2)), np.zeros((2, 1))), (np.zeros(2), np.array([math.log(p / (1 - p))])))

    heads = Heads(head(3, temperature / 2), head(3 + 1 + STATISTICS, top_p))
    save_heads(path, HeadsFile(heads, card()))
    return AutoDeco(str(path))


@pytest.mark.parametrize(("temperature", "top_p"), [(0.5, 0.9), (1.7, 0.6)])
@pytest.mark.parametrize("cut", [(), (TopK(4),)], ids=["alone", "behind top-k"])
def test_its_distortion_is_that_of_its_temperature_and_its_cut(tmp_path, cut, temperature, top_p):
    stage = constant(tmp_path / "h.safetensors", temperature, top_p)
    expected = log_z(Chain(*cut, Temperature(temperature), TopP(top_p)), L)
    assert log_z(Chain(*cut, stage), L, row()) == pytest.approx(expected, abs=1e-12)
    if not cut and temperature == 0.5:
        assert expected == pytest.approx(-1.1797, abs=5e-5)


def test_the_heads_see_the_whole_row_whatever_was_cut_before(tmp_path):
    path, heads = heads_file(tmp_path / "h.safetensors", seed=1), made_up(3, seed=1)
    stage = AutoDeco(str(path))
    temperature, top_p = heads.at(STATE, L)
    assert heads.at(STATE, L[:3])[1] < top_p - 0.05
    scores = Chain(TopK(3), stage).distribution(None, row())
    expected = TopP(top_p).apply(Candidates(L[:3] / temperature), None)
    assert scores.weights / scores.mass == pytest.approx(expected.weights / expected.mass)
