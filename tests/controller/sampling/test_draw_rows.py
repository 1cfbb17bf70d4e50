"""Tokens of many rows at once are those of each row alone."""

from __future__ import annotations

import numpy as np
import pytest

from reasonctl.controller import Candidates, ControllerError
from reasonctl.controller.sampling import draw_rows
from reasonctl.controller.sampling.draw import draw


@pytest.mark.parametrize(("rows", "size"), [(1, 3), (40, 500), (9, 5000), (3, 140_000)])
def test_each_row_is_drawn_as_alone(rows, size):
    rng = np.random.default_rng(size)
    logits = (rng.standard_normal((rows, size)) * 3).astype(np.float32)
    logits[rng.random(logits.shape) < 0.3] = -np.inf
    logits[:, 0] = 0.0
    uniforms = [*rng.random(rows - 1), 0.0]
    alone = [draw(Candidates(row).weights, uniform) for row, uniform in zip(logits, uniforms, strict=True)]
    assert draw_rows(logits, uniforms) == alone


@pytest.mark.parametrize("value", [-np.inf, np.inf, np.nan])
def test_a_row_from_which_nothing_can_be_drawn_is_an_error(value):
    logits = np.zeros((3, 8), np.float32)
    logits[1] = value
    with pytest.raises(ControllerError, match="no token is allowed|distribution is broken"):
        draw_rows(logits, [0.5] * 3)
