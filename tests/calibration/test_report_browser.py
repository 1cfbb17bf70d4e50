"""The report in a real browser, where there is one: nothing sticks out, nothing is complained of, nothing is fetched.

Needs `chromium` on the path; skipped without it. Set REPORT_PICTURES to a folder to keep the screenshots.
"""

from __future__ import annotations

import html
import json
import os
import re
from pathlib import Path

import pytest

from reasonctl.backends.load import BUNDLED_PROBE
from reasonctl.calibration.pages.report import render
from reasonctl.probes.files.probe_file import load_probe
from reasonctl.probes.promise import Promise
from support.chromium import CHROMIUM, chromium
from support.report_files import HARM, evaluation, probe_file, records_of

_OWN = "not an origin"
WIDTHS, HEIGHT = (360, 800, 1400), 9000
MEASURE = """
const ends = box => {  // where the box ends and where its last cell does, before and after it is scrolled
  const cell = [...box.querySelectorAll('tr:first-child > :last-child')].pop().getBoundingClientRect().right;
  box.scrollLeft = 1e6;
  const moved = [...box.querySelectorAll('tr:first-child > :last-child')].pop().getBoundingClientRect().right;
  box.scrollLeft = 0;
  return [box.getBoundingClientRect().right, cell, moved].map(Math.round);
};
const covered = box => [...box.querySelectorAll('th, td')].some(cell => {  // by a colour that isn't translucent
  const colour = getComputedStyle(cell).backgroundColor;
  return !colour.startsWith('rgba');
});
onload = () => {
  const roots = [...document.querySelectorAll('iframe')].map(frame => frame.contentDocument.documentElement);
  document.body.dataset.found = roots.map(root => root.clientWidth + ' ' + root.scrollWidth).join(' ');
  const shade = box => getComputedStyle(box).backgroundAttachment;
  const measured = box => [...ends(box), box.tabIndex, covered(box), shade(box)].join('|');
  const boxes = root => [...root.querySelectorAll('.scroll')].map(measured).join(';');
  document.body.dataset.boxes = roots.map(boxes).join('#');
};
"""
BROKEN = (
    '<script>console.error("oh no")</script><img src="http://example.invalid/x.png"><div style="width:3000px">x</div>'
)

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no chromium on the path")


def framed(page: str) -> str:
    """The page in a frame of each width, which is its viewport, and a script outside of them that measures."""
    frames = "".join(
        f'<iframe width="{width}" height="{HEIGHT}" style="border:0" srcdoc="{html.escape(page)}"></iframe>'
        for width in WIDTHS
    )
    return (
        f'<!doctype html><meta charset="utf-8"><body style="margin:0;display:flex">{frames}<script>{MEASURE}</script>'
    )


def browse(folder: Path, page: str, picture: Path | None = None) -> dict:
    """What a browser makes of a page: (width, width with what sticks out) of each frame in pixels, what it complains
    of, what it asks the network for, and of each box that scrolls: its right edge, its last column's before and after
    scrolling, whether the keyboard reaches it, whether a cell hides its shade, and how the shade moves."""
    file, log = folder / "page.html", folder / "net.json"
    file.write_text(framed(page), encoding="utf-8")
    what = "--dump-dom" if picture is None else f"--screenshot={picture}"
    size = f"--window-size={sum(WIDTHS)},{HEIGHT}"
    done = chromium(file, folder, "--virtual-time-budget=3000", f"--log-net-log={log}", size, what)
    found = re.search(r'data-found="([\d ]+)"', done.stdout)
    boxes = re.search(r'data-boxes="([^"]*)"', done.stdout)
    events = json.loads(log.read_text())["events"]
    # Of the page's making: the browser's own requests, for its clock and its updates, have no origin.
    asked = [event["params"] for event in events if event.get("params", {}).get("initiator", _OWN) != _OWN]
    urls = {params["url"] for params in asked if "url" in params}
    return {
        "widths": tuple(map(int, found.group(1).split())) if found else None,
        "boxes": [frame.split(";") for frame in boxes.group(1).split("#")] if boxes else None,
        "console": re.findall(r"CONSOLE.*", done.stderr),
        "urls": {url for url in urls if url.startswith("http")},
    }


def pages() -> dict[str, str]:
    file = probe_file()
    never = Promise("harm", 0.001, 0.9, "hidden")
    bundled = load_probe(BUNDLED_PROBE)
    return {
        "measured": render(file, HARM, records_of(file), evaluation()),
        "never": render(file, never, records_of(file, "long" * 100), None),
        "pair": render(bundled, Promise("harm", 0.05, 0.9, "hidden", give_up=0.05), None, None),
    }


def check_boxes(frames: list[list[str]]) -> None:
    """A table that is too wide can be scrolled to its last column, by keys too, and a shade says that there is more."""
    cut = 0
    for width, boxes in zip(WIDTHS, frames, strict=True):
        for box in boxes:
            edge, before, after, tab, covered, shade = box.split("|")
            cut += int(before) > int(edge)
            assert int(after) <= int(edge) + 1 and tab == "0", (width, box)
            assert shade == "local, local, scroll, scroll" and covered == "false", (width, box)
        assert cut, "at 360 pixels no table is too wide: nothing was tried"


def test_the_page_in_a_browser(tmp_path):
    fits = tuple(width for width in WIDTHS for _ in range(2))
    for name, page in pages().items():
        folder = tmp_path / name
        folder.mkdir()
        seen = browse(folder, page)
        check_boxes(seen.pop("boxes"))
        assert seen == {"widths": fits, "console": [], "urls": set()}, (name, seen)
        if "REPORT_PICTURES" in os.environ:
            browse(folder, page, Path(os.environ["REPORT_PICTURES"]) / f"{name}.png")


def test_a_page_that_misbehaves_is_seen(tmp_path):
    seen = browse(tmp_path, pages()["never"].replace("</main>", BROKEN + "</main>"))
    assert seen["widths"][1] > 2000 and "oh no" in seen["console"][0]
    assert seen["urls"] == {"http://example.invalid/x.png"}
