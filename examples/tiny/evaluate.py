"""Measure a bundled model: accuracy in full and at forced exits, what a probe on its states sees, and format parity.

Owns these numbers only. Collecting here is a plain loop of its own, so that it can check the real controller.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path

import llama_cpp
import numpy as np
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from traces import CONFIRMATIONS, CUES
from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonctl.calibration.tasks.problem import Problem
from reasonctl.calibration.tasks.tiny import fresh_problems

SUFFIX = "</think>\nThe answer is"
EXIT_TOKENS = 8  # what an exit costs: 5 suffix tokens, the value, the full stop and <eos>
MAX_TOKENS, ANSWER_TOKENS = 700, 8
FOLDER = Path(__file__).parents[2] / "backends" / "tiny"


@dataclass(frozen=True)
class Run:
    """One sampled run: token ids, where the completion starts, and the answers forced at each cue."""

    question: str
    answer: str
    tokens: list[int]
    start: int
    cues: list[int]
    forced: list[str]
    final: str

    @property
    def right(self) -> bool:
        return self.final == self.answer

    @property
    def forced_right(self) -> list[bool]:
        return [answer == self.answer for answer in self.forced]


def collect(problems: Sequence[tuple[int, Problem]], seed: int, temperature: float, folder: Path) -> list[Run]:
    """One run of each (number, problem) with llama.cpp, on one thread, with a forced exit tried at every cue."""
    llm = open_llama(folder)
    cue_ids = {encode(llm, cue)[0] for cue in CUES}
    return [sample_run(llm, problem, (seed, number), temperature, cue_ids) for number, problem in problems]


def open_llama(folder: Path, logits_all: bool = False) -> llama_cpp.Llama:
    """The folder's GGUF file, on one thread."""
    (path,) = folder.glob("*.gguf")
    return llama_cpp.Llama(str(path), n_ctx=1024, n_threads=1, n_threads_batch=1, logits_all=logits_all, verbose=False)


def encode(llm: llama_cpp.Llama, text: str) -> list[int]:
    return llm.tokenize(text.encode(), add_bos=False, special=True)


def sample_run(
    llm: llama_cpp.Llama, problem: Problem, key: tuple[int, int], temperature: float, cue_ids: set[int]
) -> Run:
    """Sample one run; the cue is dropped for a forced exit and fed again afterwards."""
    rng, answer_rng = np.random.default_rng([*key, 0]), np.random.default_rng([*key, 1])
    tokens = encode(llm, f"Q: {problem.question}\n<think>\n")
    start, closing = len(tokens), encode(llm, "</think>")[0]
    cues, forced = [], []
    llm.reset()
    llm.eval(tokens)
    while len(tokens) < start + MAX_TOKENS:
        token = draw(llm, rng, temperature)
        if token in cue_ids and closing not in tokens:
            cues.append(len(tokens))
            state = keep(llm)
            forced.append(force_answer(llm, answer_rng, temperature))
            restore(llm, state, len(tokens))
        tokens.append(token)
        if token == llm.token_eos():
            break
        llm.eval([token])
    text = llm.detokenize(tokens[start:], special=True).decode()
    return Run(problem.question, problem.answer, tokens, start, cues, forced, read_answer(text))


def keep(llm: llama_cpp.Llama) -> ctypes.Array[ctypes.c_uint8]:
    """The model's memory as it is: a hybrid's can't forget single tokens."""
    state = (ctypes.c_uint8 * llama_cpp.llama_state_seq_get_size(llm.ctx, 0))()
    llama_cpp.llama_state_seq_get_data(llm.ctx, state, len(state), 0)
    return state


def restore(llm: llama_cpp.Llama, state: ctypes.Array[ctypes.c_uint8], length: int) -> None:
    """Put back what `keep` gave after `length` tokens."""
    if not llama_cpp.llama_state_seq_set_data(llm.ctx, state, len(state), 0):
        raise RuntimeError("llama.cpp doesn't take its own state back")
    llm.n_tokens = length


def force_answer(llm: llama_cpp.Llama, rng: np.random.Generator, temperature: float) -> str:
    """The answer when thinking is closed at the present end of the cache."""
    llm.eval(encode(llm, SUFFIX))
    answer: list[int] = []
    while len(answer) < ANSWER_TOKENS and (not answer or answer[-1] != llm.token_eos()):
        answer.append(draw(llm, rng, temperature))
        llm.eval([answer[-1]])
    return read_answer(SUFFIX + llm.detokenize(answer, special=True).decode())


def draw(llm: llama_cpp.Llama, rng: np.random.Generator, temperature: float) -> int:
    """A token from the whole distribution at a temperature; 0 takes the likeliest."""
    logits = np.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llm.ctx, -1), (llm.n_vocab(),)).astype(np.float64)
    if temperature == 0:
        return int(logits.argmax())
    odds = np.exp((logits - logits.max()) / temperature).cumsum()
    return int(np.searchsorted(odds, rng.random() * odds[-1], side="right"))


def read_answer(text: str) -> str:
    """The answer of a completion, or '' where it is malformed."""
    found = re.search(r"</think>\nThe answer is (\d+)\.<eos>$", text)
    return found.group(1) if found else ""


def describe(runs: Sequence[Run]) -> dict[str, object]:
    """Accuracy, cues and tokens."""
    most = max(len(run.cues) for run in runs)
    reached = [[run.forced_right[k] for run in runs if len(run.cues) > k] for k in range(most)]
    lengths = [len(run.tokens) - run.start for run in runs]
    answers = [answer for run in runs for answer in run.forced]
    return {
        "runs": len(runs),
        "accuracy": mean([run.right for run in runs]),
        "accuracy_by_steps": {k: mean([r.right for r in runs if r.question.count(" ") == k]) for k in (3, 4, 5)},
        "forced_right_at_cue": [mean(at) for at in reached if len(at) >= len(runs) / 20],
        "cues": mean([len(run.cues) for run in runs]),
        "fewest_cues": min(len(run.cues) for run in runs),
        "tokens": mean(lengths),
        "tokens_range": [min(lengths), max(lengths)],
        "malformed_final": sum(not run.final for run in runs),
        "malformed_forced": f"{answers.count('')} of {len(answers)}",
        "copies_last_value": mean([a == last_value(run, k) for run in runs for k, a in enumerate(run.forced)]),
    }


def last_value(run: Run, cue: int) -> str:
    """The value that the line before a cue ends on."""
    return piece_text(run.tokens[: run.cues[cue]]).rstrip("\n").rsplit(" ", 1)[-1]


def piece_text(tokens: Sequence[int]) -> str:
    return tokenizer().decode(tokens, skip_special_tokens=False)


@cache
def tokenizer() -> AutoTokenizer:
    return AutoTokenizer.from_pretrained(FOLDER)


def mean(values: Sequence[float]) -> float:
    return round(float(np.mean(values)), 4) if len(values) else float("nan")


@torch.no_grad()
def states(runs: Sequence[Run], folder: Path) -> tuple[dict[int, list[np.ndarray]], dict[str, list[np.ndarray]]]:
    """(hidden states at the cues by layer, readings of the law there), one array per run, from transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    seen: dict[int, torch.Tensor] = {}
    layers = range(1, model.config.num_hidden_layers)
    for layer in layers:
        model.model.layers[layer].register_forward_hook(lambda _m, _i, out, layer=layer: seen.update({layer: out}))
    words = [tokenizer()(word)["input_ids"][0] for word in CONFIRMATIONS]
    found: dict[int, list[np.ndarray]] = {layer: [] for layer in layers}
    readings: dict[str, list[np.ndarray]] = {"own P(confirmed)": [], "own entropy": []}
    for run in runs:
        law = model(torch.tensor([run.tokens]), use_cache=False).logits[0, run.cues].softmax(-1)
        readings["own P(confirmed)"].append(law[:, words].sum(-1).numpy())
        readings["own entropy"].append(-torch.special.entr(law).sum(-1).numpy())
        for layer in layers:
            found[layer].append(seen[layer].reshape(len(run.tokens), -1)[run.cues].numpy().copy())
    return found, readings


def signs_agree(run: Run, cue: int) -> bool:
    """Whether a reader who compares the last line with the question finds the same signs and operands in both."""
    line = piece_text(run.tokens[: run.cues[cue]]).rstrip("\n").rsplit("\n", 1)[-1]
    return re.findall(r"[a-e][+-]\d", line) == re.findall(r"[a-e][+-]\d", run.question)


def auc(labels: Sequence[np.ndarray], scores: Sequence[np.ndarray]) -> list[float]:
    """AUC over all cues, at the first, and from the second on."""
    picks: list[Callable[[np.ndarray], np.ndarray]] = [lambda x: x, lambda x: x[:1], lambda x: x[1:]]
    parts = [[np.concatenate([pick(x) for x in side]) for side in (labels, scores)] for pick in picks]
    return [round(float(roc_auc_score(*part)), 3) for part in parts]


def fit_scores(vectors: Sequence[np.ndarray], labels: Sequence[np.ndarray], train: Sequence[int]) -> list[np.ndarray]:
    """Scores of a logistic regression fitted on the runs `train`, for all runs."""
    probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=2000))
    probe.fit(np.concatenate([vectors[i] for i in train]), np.concatenate([labels[i] for i in train]))
    return [probe.predict_proba(x)[:, 1] if len(x) else np.empty(0) for x in vectors]


def savings(runs: Sequence[Run], exits: Sequence[int | None]) -> tuple[float, float]:
    """(share of tokens saved, harm) when run i leaves at cue exits[i]."""
    full = spent = harmed = 0
    for run, cue in zip(runs, exits, strict=True):
        length = len(run.tokens) - run.start
        full += length
        spent += length if cue is None else run.cues[cue] - run.start + 1 + EXIT_TOKENS
        harmed += cue is not None and run.right and not run.forced_right[cue]
    return 1 - spent / full, harmed / len(runs)


def first_over(scores: np.ndarray, threshold: float) -> int | None:
    over = np.flatnonzero(scores >= threshold)
    return int(over[0]) if len(over) else None


def tuned_savings(
    runs: Sequence[Run], scores: Sequence[np.ndarray], tune: Sequence[int], test: Sequence[int], cap: float
) -> tuple[float, float]:
    """(saved, harm) on `test` at the threshold that saves most on `tune` at harm <= cap."""
    grid = np.quantile(np.concatenate([scores[i] for i in tune]), np.linspace(0, 1, 201))
    best, chosen = 0.0, np.inf
    for threshold in grid:
        saved, harm = savings([runs[i] for i in tune], [first_over(scores[i], threshold) for i in tune])
        if harm <= cap and saved > best:
            best, chosen = saved, threshold
    return savings([runs[i] for i in test], [first_over(scores[i], chosen) for i in test])


def compare(runs: Sequence[Run], folder: Path, splits: int = 10) -> dict[str, object]:
    """AUC and savings of probes, cue index, the model's next-token law and its text, over random three-way splits."""
    vectors, readings = states(runs, folder)
    labels = [np.array(run.forced_right) for run in runs]
    fixed = {
        "cue index": [np.arange(len(run.cues), dtype=float) for run in runs],
        **readings,
        "text: signs agree": [np.array([float(signs_agree(r, k)) for k in range(len(r.cues))]) for r in runs],
    }
    rows: dict[str, list] = {}
    for split in range(splits):
        order = np.random.default_rng(split).permutation(len(runs))
        train, tune, test = np.array_split(order, 3)
        probes = {f"probe layer {layer}": fit_scores(found, labels, train) for layer, found in vectors.items()}
        for name, scores in {**probes, **fixed}.items():
            aucs = auc([labels[i] for i in test], [scores[i] for i in test])
            rows.setdefault(name, []).append([*aucs, *tuned_savings(runs, scores, tune, test, 0.05)])
    table = {name: [mean(column) for column in zip(*found, strict=True)] for name, found in rows.items()}
    oracle = savings(runs, [next((k for k, right in enumerate(run.forced_right) if right), None) for run in runs])
    always = [savings(runs, [k if len(r.cues) > k else None for r in runs]) for k in range(10)]
    shown = [[round(float(x), 3) for x in pair] for pair in [oracle, *always]]
    head = {"columns": "AUC all, cue 1, cue 2+, saved, harm (threshold tuned for harm <= 0.05)"}
    return {**head, **table, "oracle": shown[0], "always cue 1..10": shown[1:]}


@torch.no_grad()
def parity(folder: Path, prompts: int = 20, length: int = 200) -> dict[str, object]:
    """How many greedy completions of transformers (fp32) and llama.cpp agree, and the largest logit difference."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    llm = open_llama(folder, logits_all=True)
    equal, gap = 0, 0.0
    for problem in fresh_problems(prompts, seed=77):
        tokens = encode(llm, f"Q: {problem.question}\n<think>\n")
        theirs = model.generate(torch.tensor([tokens]), do_sample=False, max_new_tokens=length)[0].tolist()
        llm.reset()
        llm.eval(theirs)
        ours, logits = np.array(llm.scores[: len(theirs)]), model(torch.tensor([theirs])).logits[0].numpy()
        gap = max(gap, float(np.abs(ours - logits).max()))
        llm.reset()
        llm.eval(tokens)
        while len(tokens) < len(theirs):
            tokens.append(int(llm.scores[llm.n_tokens - 1].argmax()))
            llm.eval(tokens[-1:])
        equal += tokens == theirs
    return {"greedy equal": f"{equal} of {prompts}", "largest logit difference": round(gap, 4)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=FOLDER)
    parser.add_argument("-n", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--temperature", type=float, default=0.6)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--out", type=Path, help="keep the runs as JSON lines")
    arguments = parser.parse_args()
    problems = list(enumerate(fresh_problems(arguments.n, arguments.seed)))
    work = partial(collect, seed=arguments.seed, temperature=arguments.temperature, folder=arguments.folder)
    shares = [problems[k :: arguments.processes] for k in range(arguments.processes)]
    with ProcessPoolExecutor(arguments.processes) as pool:
        runs = [run for share in pool.map(work, shares) for run in share]
    if arguments.out:
        arguments.out.write_text("".join(json.dumps(asdict(run)) + "\n" for run in runs))
    for part in (describe(runs), compare(runs, arguments.folder), parity(arguments.folder)):
        for key, value in part.items():
            print(f"{key}: {value}", flush=True)


if __name__ == "__main__":
    main()
