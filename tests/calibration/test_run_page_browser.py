"""The page of runs in a real browser: read, filtered, walked by keys; nothing is run, fetched or complained of.

Needs `chromium` on the path; skipped without it.
"""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import pytest

from reasonctl.calibration.pages.run_page import run_page
from reasonctl.controller.core import SavedRun
from support.chromium import CHROMIUM, chromium
from support.saved_runs import HOSTILE, saved_run

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")

REPORT = "document.documentElement.dataset.found = JSON.stringify(found);"
"""Ends a script of a test."""
READY = """
const found = {};
document.body.offsetHeight;
found.ready = performance.now();
"""


def seen(folder: Path, runs: list[SavedRun], script: str, fragment: str = "", page: str | None = None) -> dict:
    """What a script finds on the page of some runs; the page must not complain, nor ask the network."""
    file, log = folder / "page.html", folder / "net.json"
    text = run_page(runs, "runs.jsonl") if page is None else page
    file.write_text(text.replace("</body>", f"<script>{READY}{script}{REPORT}</script></body>"), encoding="utf-8")
    done = chromium(file, folder, f"--log-net-log={log}", "--dump-dom", fragment=fragment)
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found is not None, done.stdout[:500]
    urls = {event.get("params", {}).get("url", "") for event in json.loads(log.read_text())["events"]}
    origins = {url for url in urls if url.startswith("http") and "google" not in url and "gstatic" not in url}
    assert "CONSOLE" not in done.stderr and origins == set(), (done.stderr[-500:], origins)
    return json.loads(html.unescape(found[1]))


WALK = """
const text = at("text"), press = key => text.dispatchEvent(new KeyboardEvent("keydown", { key, cancelable: true }));
found.shown = text.textContent.includes(JSON.parse(document.getElementById("d0").textContent).pieces[1]);
found.title = document.title;
found.images = document.images.length;
press("ArrowRight"); press("j"); found.cue = at("token").textContent;
press("k"); found.first = here;
found.forced = text.querySelectorAll(".f").length;
found.drafted = text.querySelectorAll(".d").length;
found.shaded = text.querySelectorAll(".e1, .e2, .e3, .e4, .e5").length;
at("shade").value = ""; at("shade").onchange();
found.plain = text.querySelectorAll(".e1, .e2, .e3, .e4, .e5").length;
found.chart = at("chart").firstChild.getAttribute("aria-label");
found.dots = at("chart").querySelectorAll("circle").length;
found.facts = at("facts").textContent;
"""


def test_one_hostile_run_is_text_and_is_walked_by_keys(tmp_path: Path) -> None:
    run = saved_run(40, 3, hostile=True)
    found = seen(tmp_path, [run], WALK)
    assert found["shown"] and found["title"] == "runs.jsonl: 1 run" and found["images"] == 0
    assert found["cue"].startswith("Token 11 of 40") and "score 0.250, went on" in found["cue"]
    assert HOSTILE.replace("\x00", "")[:20] in found["cue"] and found["first"] == 10
    assert (found["forced"], found["drafted"]) == (2, 5) and found["shaded"] > 20 and found["plain"] == 0
    assert found["dots"] == 3 and "3 cues, highest score 0.750, threshold 0.700" in found["chart"]
    assert "46.2% saved" in found["facts"] and "no alarm, after 3 runs" in found["facts"]


def test_texts_that_are_read_as_markup_are_seen(tmp_path: Path) -> None:
    """The negative control: a page that doesn't escape runs the text."""
    page = run_page([saved_run(hostile=True)], "runs.jsonl").replace("\\u003c", "<").replace("\\u003e", ">")
    file = tmp_path / "page.html"
    file.write_text(page, encoding="utf-8")
    assert "<title>owned</title>" in chromium(file, tmp_path, "--dump-dom").stdout


LIST = """
found.rows = at("runs").tBodies[0].rows.length;
found.totals = at("totals").textContent;
const left = () => [...at("runs").tBodies[0].rows].filter(row => !row.hidden).length;
const set = (id, value) => { at(id).value = value; at("filters").oninput(); return left(); };
found.closer = set("f-closer", "model"); set("f-closer", "");
found.wrong = set("f-right", "false"); set("f-right", "");
found.text = set("f-text", "ARE 17 AND"); found.one = at("totals").textContent; set("f-text", "");
at("f-alarm").checked = true; at("filters").oninput(); found.alarm = left();
at("runs").querySelectorAll("th button")[2].click(); found.sort = at("runs").querySelector("th[aria-sort]").textContent;
found.top = at("runs").tBodies[0].rows[0].cells[2].textContent;
found.wide = document.documentElement.scrollWidth - document.documentElement.clientWidth;
"""


def test_the_list_filters_sorts_and_adds_up(tmp_path: Path) -> None:
    runs = [saved_run(20 + i, 2, seed=i, exits=i % 4 != 0) for i in range(40)]
    found = seen(tmp_path, runs, LIST)
    assert found["rows"] == 40 and found["closer"] == 10 and found["wrong"] == 8 and found["text"] == 1
    assert found["totals"].startswith("40 of 40 runs; 1,580 tokens") and "75.0 % exit early" in found["totals"]
    assert found["one"].startswith("1 of 40 runs; 37 tokens") and found["alarm"] == 4
    assert found["sort"].startswith("tokens") and found["top"] == "59" and found["wide"] <= 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seconds"), [("tokens", 30.0), ("runs", 60.0)])
def test_large_pages_are_ready_soon(tmp_path: Path, name: str, seconds: float) -> None:
    """Bounds of a busy machine; the measured times are in docs/log."""
    big = {"tokens": [saved_run(20_000, 200)], "runs": [saved_run(200, 5, seed=i) for i in range(2000)]}[name]
    found = seen(
        tmp_path, big, "found.n = name === 'tokens' ? spans.length : lines.length;".replace("name", repr(name))
    )
    print(name, found)
    assert found["n"] == {"tokens": 20_000, "runs": 2000}[name] and found["ready"] < 1000 * seconds


@pytest.mark.slow
@pytest.mark.parametrize("fragment", ["#list", "#run=2"])
def test_no_width_is_too_small(tmp_path: Path, fragment: str) -> None:
    """In frames of each width, which are viewports, nothing sticks out."""
    inner = tmp_path / "inner.html"
    inner.write_text(run_page([saved_run(300, 9, seed=i, hostile=i == 1) for i in range(5)], "runs.jsonl"))
    frames = "".join(
        f'<iframe width="{width}" height="900" src="{inner.as_uri()}{fragment}"></iframe>' for width in (360, 800, 1400)
    )
    script = (
        "onload = () => { document.documentElement.dataset.found = [...document.querySelectorAll('iframe')].map("
        "f => f.contentDocument.documentElement.scrollWidth + ' ' + f.contentDocument.documentElement.clientWidth"
        ").join(); }"
    )
    page = tmp_path / "page.html"
    page.write_text(f'<!doctype html><meta charset="utf-8">{frames}<script>{script}</script>')
    done = chromium(page, tmp_path, "--allow-file-access-from-files", "--dump-dom")
    found = re.search(r'data-found="([^"]*)"', done.stdout)
    assert found is not None
    assert [len(set(pair.split())) for pair in found[1].split(",")] == [1, 1, 1], found[1]
