"""Defaults from files and variables: which wins, what is refused, how it is said; hostile files do nothing."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import click
import pytest

from reasonctl.calibration.cli.config import MOST_BYTES, TRUSTED, _options, configured
from reasonctl.calibration.cli.main import cli
from support.ctl import ctl


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder, with the user's own file next to it."""
    folder = tmp_path / "project"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("REASONCTL_CONFIG", str(tmp_path / "config.toml"))
    (tmp_path / "config.toml").write_text("", encoding="utf-8")
    return folder


def project(folder: Path, text: str) -> None:
    (folder / "reasonctl.toml").write_text(text, encoding="utf-8")


def own(folder: Path, text: str) -> None:
    (folder.parent / "config.toml").write_text(text, encoding="utf-8")


def value(command: str, option: str, *arguments: str) -> object:
    """What an option comes to, as click reads it."""
    context = cli.make_context("ctl", command.split(" "), default_map=configured(cli).by_command)
    group: click.Command = cli
    for name in command.split(" "):
        assert isinstance(group, click.Group)
        group = group.commands[name]
        context = click.Context(group, info_name=name, parent=context)
    group.parse_args(context, list(arguments))
    return context.params[option]


def test_the_nearest_wins(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert value("run", "risk", "tiny") == 0.05
    own(here, "risk = 0.1\n[run]\nrisk = 0.11\n")
    assert (value("run", "risk", "tiny"), value("eval", "risk", "tiny")) == (0.11, 0.1)
    project(here, "risk = 0.2\n")
    assert (value("run", "risk", "tiny"), value("eval", "risk", "tiny")) == (0.2, 0.2), "the project over the user"
    project(here, "risk = 0.2\n[run]\nrisk = 0.21\n")
    assert (value("run", "risk", "tiny"), value("eval", "risk", "tiny")) == (0.21, 0.2)
    monkeypatch.setenv("REASONCTL_RUN_RISK", "0.3")
    assert (value("run", "risk", "tiny"), value("eval", "risk", "tiny")) == (0.3, 0.2)
    assert value("run", "risk", "tiny", "--risk", "0.4") == 0.4


def test_every_kind_of_option(here: Path) -> None:
    project(
        here,
        "n = 7\nmax-new-tokens = 9\nconfidence = 0.8\n[eval]\nbaselines = false\n[advise]\nseed = 3\n"
        '[advise.policy]\nat = "1,2"\ntexts = ["a.txt", "b.txt"]\n[report]\neval = "e.json"\n[run]\nverbose = true\n',
    )
    assert value("bench", "n", "tiny") == 7 and value("run", "max_new_tokens", "tiny") == 9
    assert value("eval", "baselines", "tiny") is False and value("run", "confidence", "tiny") == 0.8
    assert value("advise policy", "seed", "tiny") == 3 and value("bench", "seed", "tiny") == 0
    assert value("advise policy", "texts", "tiny") == ("a.txt", "b.txt") and value("advise policy", "at", "m") == "1,2"
    assert value("report", "evaluation", "p") == "e.json" and value("run", "verbose", "tiny") is True


def test_a_default_is_used_by_a_command(here: Path, capfd: pytest.CaptureFixture[str]) -> None:
    project(here, 'max-new-tokens = 6\n[run]\nprobe = "none"\n')
    code, out, err = ctl(capfd, "run", "tiny", "48 a-9 b+6 c-3")
    assert code == 0 and "6 tokens, 6 forwards" in out, err
    assert "8 tokens, 8 forwards" in ctl(capfd, "run", "tiny", "48 a-9 b+6 c-3", "--max-new-tokens", "8")[1]


def test_a_default_that_means_nothing_to_a_command_is_not_refused(
    here: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """On the command line it would be: --risk means nothing without a probe."""
    project(here, 'risk = 0.1\ndraft = "ngram(4)"\n[run]\nprobe = "none"\n')
    code, _, err = ctl(capfd, "run", "tiny", "48 a-9 b+6 c-3", "--max-new-tokens", "6")
    assert code == 0, err


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("risc = 0.1", "'risc' in reasonctl.toml is no option and no command; did you mean risk?"),
        ("max_new_tokens = 3", "'max_new_tokens' in reasonctl.toml is no option and no command; did you mean max-new"),
        ("[runn]\nrisk = 1", "'[runn]' in reasonctl.toml is no option and no command; did you mean run?"),
        ("[run]\nbudgett = 1", "'run.budgett' in reasonctl.toml is no option and no command; did you mean budget?"),
        ("[advise.draft]\ntexts = []", "'advise.draft.texts' in reasonctl.toml is no option"),
        ("[inspect]\nseed = 1", "'inspect.seed' in reasonctl.toml is no option"),
        ("version = true", "'version' in reasonctl.toml is no option"),
        ("run = 3", "'run' in reasonctl.toml is no option"),
        ("risk = true", "'risk' in reasonctl.toml is 'True'; it must be a number or a text"),
        ("risk = [0.1]", "'risk' in reasonctl.toml is '[0.1]'; it must be a number or a text"),
        ("risk = 2020-01-01", "'risk' in reasonctl.toml is '2020-01-01'; it must be"),
        ("[eval]\nbaselines = 1", "'baselines' in reasonctl.toml is '1'; it must be true or false"),
        ('[advise.policy]\ntexts = "a"', "'texts' in reasonctl.toml is 'a'; it must be a list of texts"),
        ('grader = "evil:run"', "'grader' in reasonctl.toml: a project's file can't run code"),
        ('[serve]\nhost = "0.0.0.0"', "'host' in reasonctl.toml: a project's file can't"),
        ("force = true", "'force' in reasonctl.toml: a project's file can't"),
        ("a = ", "reasonctl.toml is no TOML file: Invalid value"),
        ("a = '\udcff'", "reasonctl.toml is no TOML file"),
        ("a = " + "[" * 1500, "reasonctl.toml is no TOML file"),
        ("#" * 3000, "reasonctl.toml is larger than"),
        ("a" * 40 + "\n" + "#\n" * MOST_BYTES, "reasonctl.toml is larger than"),
    ],
)
def test_a_mistake_is_one_line_with_key_file_and_remedy(here: Path, text: str, words: str, capfd) -> None:
    (here / "reasonctl.toml").write_bytes(text.encode("utf-8", "surrogateescape"))
    for arguments in (["run", "tiny", "48 a-9"], ["models"]):
        code, out, err = ctl(capfd, *arguments)
        assert code == 2 and not out and words in err and len(err.splitlines()) == 1, err


def test_the_users_own_file_is_trusted(here: Path) -> None:
    own(here, 'grader = "mine:right"\nforce = true\n[serve]\nhost = "10.0.0.1"\nallow-host = ["a"]\n')
    assert value("eval", "grader", "tiny") == "mine:right" and value("serve", "host", "tiny") == "10.0.0.1"
    known = set().union(*(_options(one) for one in leaves(cli)))
    assert set(TRUSTED) <= known, "each is an option that there is"


def leaves(group: click.Group) -> list[click.Command]:
    found: list[click.Command] = []
    for command in group.commands.values():
        found += leaves(command) if isinstance(command, click.Group) else [command]
    return found


def test_what_can_do_harm_is_trusted_only() -> None:
    """A new option of such a name must be thought of here."""
    risky = ("host", "origin", "key", "grader", "utility", "dask", "force")
    found = {name for one in leaves(cli) for name in _options(one) if any(part in name for part in risky)}
    assert found == set(TRUSTED)


@pytest.mark.parametrize(
    ("text", "arguments", "words"),
    [
        ('risk = "much"', ["eval", "tiny"], "'much' is not a valid float. (set elsewhere: --risk in reasonctl.toml)"),
        ('policy = "gredy"', ["run", "tiny", "x"], "did you mean greedy? (set elsewhere: --policy in reasonctl.toml)"),
        ("risk = 7", ["run", "tiny", "x"], "(set elsewhere: --risk in reasonctl.toml)"),
    ],
)
def test_an_error_says_where_the_value_is_set(here: Path, text: str, arguments: list[str], words: str, capfd) -> None:
    project(here, text)
    code, _, err = ctl(capfd, *arguments)
    assert code == 2 and words in err and len(err.splitlines()) == 1, err


def test_an_error_names_the_variable(here: Path, monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    monkeypatch.setenv("REASONCTL_ADVISE_DRAFT_POLICY", "gredy")
    err = ctl(capfd, "advise", "draft", "tiny", "--drafts", "tiny")[2]
    assert "(set elsewhere: --policy in REASONCTL_ADVISE_DRAFT_POLICY)" in err
    monkeypatch.setenv("REASONCTL_CONFIG", str(here / "nothing.toml"))
    assert "REASONCTL_CONFIG is" in ctl(capfd, "models")[2]


def test_a_hostile_file_takes_no_time(here: Path) -> None:
    key = ".".join(["a"] * 990)
    project(here, "\n".join([f"{key}=1", *(f"[{key}.b{i}]" for i in range(7))]))
    started = time.process_time()
    with pytest.raises(click.UsageError):
        configured(cli)
    assert time.process_time() - started < 2


def test_the_platforms_folder_holds_the_users_file(tmp_path: Path) -> None:
    (tmp_path / "reasonctl").mkdir()
    (tmp_path / "reasonctl" / "config.toml").write_text("[run]\nseed = 12345\n", encoding="utf-8")
    kept = {name: text for name, text in os.environ.items() if name != "REASONCTL_CONFIG"}
    code = "from reasonctl.calibration.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", code, "--version"],
        env={**kept, "XDG_CONFIG_HOME": str(tmp_path), "HOME": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("ctl, version ") and "click " in done.stdout and "Python 3." in done.stdout
    assert sys.platform != "linux" or done.stdout.endswith(f"defaults from: {tmp_path}/reasonctl/config.toml\n")


def test_help_names_each_variable_and_shows_the_default_in_force(here: Path, capfd) -> None:
    project(here, "[eval]\nrisk = 0.125\n")
    out = " ".join(ctl(capfd, "eval", "--help")[1].split())
    names = [one for one in cli.commands["eval"].params if isinstance(one, click.Option) and not one.hidden]
    assert len(names) > 20
    assert all(f"env var: REASONCTL_EVAL_{(one.name or '').upper()}" in out for one in names)
    assert "REASONCTL_EVAL_RISK; default: 0.125" in out and "REASONCTL_EVAL_TIME_LIMIT" not in out


@pytest.mark.parametrize(
    ("words", "last", "found"),
    [
        ("ctl ru", 1, "run"),
        ("ctl run --bud", 2, "--budget-per"),
        ("ctl advise sam", 2, "samples"),
        ("ctl eval --signal tri", 3, "trial-least"),
        ("ctl run ti", 2, "tiny-hybrid"),
    ],
)
def test_the_shell_completes(words: str, last: int, found: str, here: Path) -> None:
    code = "from reasonctl.calibration.cli.main import main; main()"
    env = {**os.environ, "COMP_WORDS": words, "COMP_CWORD": str(last), "_CTL_COMPLETE": "bash_complete"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert f"plain,{found}" in done.stdout.splitlines(), done.stdout + done.stderr


def test_each_shell_has_its_script(here: Path) -> None:
    code = "from reasonctl.calibration.cli.main import main; main()"
    for shell, words in (("zsh", "#compdef ctl"), ("fish", "complete --no-files --command ctl")):
        env = {**os.environ, "_CTL_COMPLETE": f"{shell}_source"}
        done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
        assert words in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("REASONCTL_RUN_RIKS", "REASONCTL_RUN_RISK?"),
        ("REASONCTL_RUN_WORKERS", ""),  # an option of other commands
        ("REASONCTL_ADVISE_DRAFT_SED", "REASONCTL_ADVISE_DRAFT_SEED?"),
        ("REASONCTL_RUN_XYZZY123", "--help"),
        ("REASONCTL_RNU_RISK", "REASONCTL_RUN_RISK?"),
        ("REASONCTL_CAHCE", "REASONCTL_CACHE?"),
    ],
)
def test_a_variable_that_sets_nothing_is_refused(name: str, nearest: str, monkeypatch, capfd) -> None:
    monkeypatch.setenv(name, "9")
    code, out, err = ctl(capfd, "models", "--help")
    assert code == 2 and not out and len(err.splitlines()) == 1
    assert f"the environment variable {name} sets no option" in err and nearest in err


def test_variables_of_options_and_of_others_are_left_alone(monkeypatch: pytest.MonkeyPatch, capfd) -> None:
    context = click.Context(cli, info_name="ctl", auto_envvar_prefix="REASONCTL")
    for command, one in (("run", "risk"), ("serve", "allow-host"), ("calibrate", "max-new-tokens")):
        inner = click.Context(cli.commands[command], info_name=command, parent=context)
        monkeypatch.setenv(f"{inner.auto_envvar_prefix}_{_options(cli.commands[command])[one].name}".upper(), "1")
    for name in ("REASONCTL_CACHE", "REASONCTL_API_KEY", "REASONCTL_HOME_OF_MINE", "REASONCTL", "XREASONCTL_RUN_RIKS"):
        monkeypatch.setenv(name, "1")
    assert ctl(capfd, "models", "--help")[0] == 0
