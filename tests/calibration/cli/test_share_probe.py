"""`ctl probe`: what is packed is the file and its card, and nothing of the runs; hostile cards stay text."""

from __future__ import annotations

import json
from dataclasses import replace

from reasonctl.backends import BUNDLED_PROBE
from reasonctl.calibration.pages.probe_card import markdown
from reasonctl.probes.files import CARD_NAME, PROBE_NAME, digest_of, load_probe, save_probe
from support.ctl import ctl


def test_a_packed_probe_is_the_file_and_its_card(tmp_path, capfd):
    probe, folder = tmp_path / "p.safetensors", tmp_path / "packed"
    content = load_probe(BUNDLED_PROBE)
    save_probe(probe, content)
    (tmp_path / "p.safetensors.runs.jsonl").write_text('{"question": "private"}\n')
    code, out, _ = ctl(capfd, "probe", "pack", str(probe), "--out", str(folder), "--json")
    assert code == 0 and json.loads(out.splitlines()[-1])["files"] == [PROBE_NAME, CARD_NAME]
    assert sorted(path.name for path in folder.iterdir()) == [CARD_NAME, PROBE_NAME]
    assert (folder / PROBE_NAME).read_bytes() == probe.read_bytes()
    text = (folder / CARD_NAME).read_text()
    assert text == markdown(content) and digest_of(content) in text and text.startswith("---\nlibrary_name")
    assert "private" not in text and str(tmp_path) not in text
    code, out, err = ctl(capfd, "probe", "pack", str(probe), "--out", str(folder))
    assert code == 2 and "exists already; overwrite it with --force" in err
    assert ctl(capfd, "probe", "pack", str(probe), "--out", str(folder), "--force")[0] == 0
    assert ctl(capfd, "probe", "pack", str(probe), "--out", str(probe))[0] == 2
    code, out, _ = ctl(capfd, "probe", "show", str(folder))
    assert code == 0 and "What it can promise" in out and "| 0.05 |" in out


def test_a_card_of_others_writes_no_markup():
    content = load_probe(BUNDLED_PROBE)
    card = replace(content.card, tasks="<script>|`x`\n# big", versions={"a": "[click](javascript:x)"})
    text = markdown(replace(content, card=card))
    assert "<script>" not in text and "\n# big" not in text and "\\<script\\>" in text


def test_fit_check_tells_models_apart(capfd):
    code, out, _ = ctl(capfd, "probe", "fit-check", "tiny", str(BUNDLED_PROBE), "--json")
    assert code == 0 and json.loads(out.splitlines()[-1]) == {"fits": True, "warnings": []}
    code, out, err = ctl(capfd, "probe", "fit-check", "tiny-hybrid", str(BUNDLED_PROBE))
    assert code == 2 and len(err.splitlines()) == 1 and "probe was fitted on a" in err
