"""A draft's paths, and what two texts begin with in common."""

from __future__ import annotations

import itertools

import pytest

from reasonctl.controller import ROOT, ControllerError, Draft
from reasonctl.controller.core.decode import common_prefix

TREE = Draft((7, 8, 9, 7), (ROOT, ROOT, 0, 2))


def test_a_path_leads_from_the_root_to_its_node():
    assert [TREE.path(node) for node in range(ROOT, 4)] == [(), (0,), (1,), (0, 2), (0, 2, 3)]


def test_every_path_and_its_beginnings_pass_the_check_and_nothing_else_does():
    paths = {TREE.path(node) for node in range(ROOT, 4)}
    for length in range(4):
        for nodes in itertools.product(range(-2, 5), repeat=length):
            if nodes in paths:
                TREE.check_path(nodes)
            else:
                with pytest.raises(ControllerError, match="no path from the draft's root"):
                    TREE.check_path(nodes)


def test_an_empty_draft_has_the_empty_path_only():
    Draft().check_path(())
    with pytest.raises(ValueError, match="no path"):
        Draft().check_path((0,))


def test_the_common_prefix_is_what_a_scan_finds():
    for a, b in itertools.product(itertools.product(range(2), repeat=5), repeat=2):
        for size in range(6):
            scanned = len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], zip(a, b[:size], strict=False))))
            assert common_prefix(list(a), b[:size]) == common_prefix(b[:size], list(a)) == scanned
