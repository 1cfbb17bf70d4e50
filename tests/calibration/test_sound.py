"""ctl stability --perturb audio: sounds of a known level, files, and a tiny audio-language model end to end."""

from __future__ import annotations

import json
import shutil
import wave
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from reasonctl.backends.hf.sound import load_sound_model, wave_bytes
from reasonctl.backends.load import tiny_folder
from reasonctl.calibration.diagnostics.sound import read_wave, sound_of, sounds_digest
from reasonctl.calibration.diagnostics.sound_runs import SoundRecipe, answer_with_sound
from reasonctl.calibration.diagnostics.stability import Grid
from reasonctl.calibration.tasks.problem import Problem
from reasonctl.controller import ControllerError
from support.ctl import ctl, goes_on

GRID = Grid("audio", (1, 3), (0.0,), (0.0, 0.8), 1, ("silence", "noise:-40"))


def wave_file(path: Path, values: np.ndarray, width: int, rate: int = 8000, channels: int = 1) -> str:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(channels), file.setsampwidth(width), file.setframerate(rate)
        whole = np.round(values * (2 ** (8 * width - 1) - 1)).astype("<i4")
        if width == 1:
            file.writeframes((whole + 128).astype(np.uint8).tobytes())
        else:
            file.writeframes(b"".join(int(one).to_bytes(width, "little", signed=True) for one in whole))
    return str(path)


@pytest.mark.parametrize("level", [-60.0, -40.0, -10.0])
def test_noise_has_its_level(level: float) -> None:
    """-40 dBFS is a root mean square of 0.01 of full scale, exactly; equal keys give equal noise."""
    noise = sound_of(f"noise:{level}", 5, 16000, 3)
    assert 20 * np.log10(np.sqrt(np.mean(noise.astype(np.float64) ** 2))) == pytest.approx(level, abs=2e-2)
    assert len(noise) == 80_000 and (noise == sound_of(f"noise:{level}", 5, 16000, 3)).all()
    assert (noise != sound_of(f"noise:{level}", 5, 16000, 4)).any()


@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_files_are_read_at_every_width(width: int, tmp_path: Path) -> None:
    """Two channels are averaged; a file of half a second is repeated, at the model's rate."""
    tone = 0.5 * np.sin(2 * np.pi * 100 * np.arange(4000) / 8000)
    name = wave_file(tmp_path / "t.wav", np.repeat(tone, 2), width, channels=2)
    samples, rate = read_wave(name)
    assert rate == 8000 and samples == pytest.approx(tone, abs=max(1e-7, 1.01 / 2 ** (8 * width - 1)))
    sound = sound_of(name, 2, 16000, 0)
    assert len(sound) == 32_000 and sound[8000:12_000] == pytest.approx(sound[:4000], abs=1e-6)


def test_a_tone_above_what_the_model_takes_is_not_heard_as_another(tmp_path: Path) -> None:
    """12 kHz at 44,100 samples a second would be 4 kHz at 16,000, if samples were only picked."""
    tone = 0.5 * np.sin(2 * np.pi * 12_000 * np.arange(44_100) / 44_100)
    sound = sound_of(wave_file(tmp_path / "t.wav", tone, 2, rate=44_100), 1, 16_000, 0)
    assert np.sqrt(np.mean(sound[800:-800] ** 2)) < 0.01
    tone = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(44_100) / 44_100)
    sound = sound_of(wave_file(tmp_path / "t.wav", tone, 2, rate=44_100), 1, 16_000, 0)
    wanted = 0.5 * np.sin(2 * np.pi * 1_000 * np.arange(16_000) / 16_000)
    assert sound[800:-800] == pytest.approx(wanted[800:-800], abs=0.01)


def test_a_file_that_was_changed_is_another_sound(tmp_path: Path) -> None:
    name = wave_file(tmp_path / "t.wav", np.linspace(-0.5, 0.5, 100), 2)
    before = sounds_digest(["silence", name, "noise:-40"])
    wave_file(tmp_path / "t.wav", np.linspace(0.5, -0.5, 100), 2)
    assert sounds_digest([name]) != before and sounds_digest(["silence", "noise:-40"]) == ""


@pytest.mark.parametrize("spec", ["noise:loud", "noise:-3", "noise:nan", "missing.wav"])
def test_what_is_no_sound_is_refused(spec: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ControllerError):
        sound_of(spec, 1, 8000, 0)
    (tmp_path / "text.wav").write_text("RIFF no sound")
    with pytest.raises(ControllerError, match=r"no \.wav file"):
        read_wave("text.wav")
    wave_file(tmp_path / "empty.wav", np.array([]), 2)
    with pytest.raises(ControllerError, match="holds no samples"):
        read_wave("empty.wav")


def test_conditions_differ_in_their_sound_only() -> None:
    asks = GRID.asks(Problem("Q", "A"), 0)
    assert {ask.question for ask in asks} == {"Q"}
    assert [(ask.sound, ask.seconds) for ask in asks[:5]] == [
        ("", 0),
        ("silence", 1),
        ("silence", 3),
        ("noise:-40", 1),
        ("noise:-40", 3),
    ]
    assert len({ask.run for ask in asks[:5]}) == 1
    for values, why in (
        (("audio", (1,), (0.0,), (0.0,), 1, ()), "for --perturb audio"),
        (("text", (1,), (0.0,), (0.0,), 1, ("silence",)), "for --perturb audio"),
        (("audio", (31,), (0.0,), (0.0,), 1, ("silence",)), "at most 30 seconds"),
    ):
        with pytest.raises(ControllerError, match=why):
            Grid(*values)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.sound_models import sound_folder

    return sound_folder("qwen2_audio", tmp_path_factory.mktemp("sound"))


def hears(folder: Path) -> None:
    """Random weights: the sound changes what is written, its level too, and a run made again is the same."""
    recipe = SoundRecipe(str(folder), 1, 0, 6)
    asks = Grid("audio", (1,), (0.0,), (1.0,), 1, ("silence", "noise:-10")).asks(Problem("48 a-9 b+6 c-3", "42"), 0)
    first = answer_with_sound(recipe, asks)
    clean, other_seed, silence, noise = (one.text for one in first)
    assert len({clean, silence, noise}) == 3 and clean != other_seed
    assert answer_with_sound(recipe, asks) == first and all(one.tokens <= 6 for one in first)


def test_a_model_hears_the_sound(folder: Path) -> None:
    hears(folder)


def test_a_model_of_another_list_of_the_library_hears_it(tmp_path: Path) -> None:
    """Audio Flamingo 3 isn't among the library's models of several media; its configuration names its class."""
    from support.sound_models import sound_folder

    hears(sound_folder("audioflamingo3", tmp_path))


def test_voxtral_hears_the_sound(tmp_path: Path) -> None:
    """mistral-common makes its prompts and takes a file, where it is installed with soundfile."""
    pytest.importorskip("mistral_common", exc_type=ImportError)
    pytest.importorskip("soundfile", exc_type=ImportError)
    from support.sound_models import voxtral_folder

    hears(voxtral_folder(tmp_path))


@pytest.mark.skipif(find_spec("mistral_common") is not None, reason="mistral-common is installed")
def test_voxtral_without_mistral_common_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    from support.sound_models import tekken_file

    copied = tekken_file(Path(shutil.copytree(folder, tmp_path / "v")))
    with pytest.raises(
        ControllerError, match=r"^the prompts of .* mistral-common, .* pip install 'mistral-common\[audio\]'"
    ):
        load_sound_model(str(copied))


def test_a_model_of_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ControllerError, match="no processor for sound"):
        load_sound_model(str(tiny_folder()))


def test_a_sound_becomes_a_file_and_stays_the_same(tmp_path: Path) -> None:
    """Noise of -120 dBFS, which 16 bits would round to silence."""
    noise = sound_of("noise:-120", 1, 16000, 0)
    (tmp_path / "n.wav").write_bytes(wave_bytes(noise, 16000))
    samples, rate = read_wave(str(tmp_path / "n.wav"))
    assert rate == 16000 and np.abs(samples - noise).max() <= 2**-31 and samples.std() > 0.9e-6


@pytest.mark.slow
def test_a_job_goes_on_where_it_was_stopped(folder: Path, capfd, tmp_path: Path) -> None:
    out = tmp_path / "a.html"
    job = ["stability", str(folder), "--tasks", "tiny", "--perturb", "audio", "--lengths", "1,2", "--temperatures", "0"]
    job += ["-n", "2", "--max-new-tokens", "6", "--out", str(out), "--json"]
    first, page = goes_on(capfd, job, out, Path(f"{out}.answers.jsonl"), "1 problems are there already")
    assert [one["sound"] for one in json.loads(first)["rows"]] == ["silence"] * 2 + ["noise:-40"] * 2
    assert b"noise:-40" in page


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--perturb", "text", "--sounds", "silence"], "for --perturb audio"),
        (["--perturb", "audio", "--draft", "ngram(4)"], "--draft means nothing"),
        (["--perturb", "audio", "--sounds", "hum"], "hum"),
        (["--perturb", "audio"], "'tiny' is no folder"),
        (["--perturb", "audio", "--lengths", "99"], "at most 30 seconds"),
    ],
)
def test_jobs_that_mean_nothing_are_refused(arguments, words: str, capfd, tmp_path: Path) -> None:
    code, out, err = ctl(capfd, "stability", "tiny", "--tasks", "tiny", "--out", str(tmp_path / "a.html"), *arguments)
    assert code == 2 and not out and words in err
