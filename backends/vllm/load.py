"""A transformers folder as a `Model` whose runs vLLM makes; the weights are read when the first run is wanted."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from reasonctl.controller import (
    Capabilities,
    ControllerError,
    Decode,
    Engine,
    ExitRule,
    Session,
    Step,
    Thinking,
)

from ..model import Message, Model
from .folder import ModelFolder
from .installed import check_installed
from .options import KEY, RECORD, RecordOptions
from .recording import Records, Seen
from .start import PROCESSOR, WORKER

AT_ONCE = 128
"""Most runs that vLLM has under way at a time, where nobody asks for more."""


class VLLMEngine(Engine):
    """Makes whole runs (`runs.make_runs`); it has no forwards to give away."""

    def __init__(self, folder: ModelFolder, batch: int) -> None:
        self._folder, self._at_once = folder, max(batch, AT_ONCE)
        self._llm: Any = None
        self._recording: RecordOptions | None = None
        self._records: Records | None = None
        self._work: tempfile.TemporaryDirectory[str] | None = None

    def session(self) -> Session:
        """Refused: vLLM decodes by itself."""
        raise ControllerError(
            "vLLM makes whole runs and gives no forwards, so this command can't use it; leave --engine vllm out"
        )

    def forward(self, requests: Sequence[Decode]) -> Sequence[Step]:
        """Refused, as `session` is."""
        raise ControllerError("vLLM gives no forwards")

    def thinking(self, suffix: str) -> Thinking:
        """How the model thinks, closed by a suffix."""
        return replace(self._folder.thinking, suffix=suffix)

    def started(self, rule: ExitRule | None) -> Any:
        """vLLM's LLM, recording at a rule's cues. It is started once, as long as later rules wait for no other cues.

        Raises:
            ControllerError: A later rule waits for cues, or reads blocks, that aren't recorded.
        """
        wanted = None if rule is None else self._wanted(rule)
        if self._llm is None:
            self._start(wanted)
        elif wanted is not None and not _covers(self._recording, wanted):
            raise ControllerError(
                f"vLLM was started to record {self._recording}, and now {wanted} is wanted; use a new process"
            )
        return self._llm

    def recorded(self) -> dict[tuple[int, int], Seen]:
        """What was recorded since this was asked last, by run and row."""
        return {} if self._records is None else self._records.fresh()

    def _wanted(self, rule: ExitRule) -> RecordOptions:
        depth, markers = self._folder.served.depth, rule.markers
        return RecordOptions(
            blocks=tuple(rule.layers(depth)),
            cues=rule.cues.names,
            markers=None if markers is None else (markers.open, markers.close),
            form=rule.form,
        )

    def _start(self, wanted: RecordOptions | None) -> None:
        check_installed()
        from vllm import LLM
        from vllm.platforms import current_platform

        additional: dict[str, Any] = {}
        if wanted is not None:
            self._work = tempfile.TemporaryDirectory(prefix="reasonctl-vllm-")
            self._recording = wanted
            self._records = Records(Path(self._work.name), len(wanted.blocks) * self._folder.served.width)
            additional = {KEY: {RECORD: {**vars(wanted)}}}
        self._llm = LLM(
            self._folder.path,
            dtype=self._folder.dtype,
            max_num_seqs=self._at_once,
            max_model_len=self._folder.context,
            worker_cls=WORKER,
            logits_processors=[PROCESSOR],
            additional_config=additional,
            **(_on_a_cpu() if current_platform.is_cpu() else {}),
        )
        if self._work is not None:
            self._llm.collective_rpc("record_into", args=(self._work.name,))


def _on_a_cpu() -> dict[str, Any]:
    """Further arguments of vLLM's LLM on a CPU. The engine stays in this process there, unless the user says otherwise.

    vLLM 0.32 ends on a CPU if a prompt comes in parts and its request has a seed, as sampled runs have here. And there
    it compiles a model at every start, for a minute or more, since it can't read what it keeps of an earlier one.
    Processes that wait for each other at every token lose most of a busy machine's time.
    """
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
    return {"enable_chunked_prefill": False, "enforce_eager": True}


def _covers(recording: RecordOptions | None, wanted: RecordOptions) -> bool:
    """Whether what is recorded holds what is wanted: a larger set of cues finds the same places."""
    if recording is None:
        return False
    same = (recording.blocks, recording.markers, recording.form) == (wanted.blocks, wanted.markers, wanted.form)
    return same and set(wanted.cues) <= set(recording.cues)


def load_vllm(name: str, path: str, *, batch: int = 1) -> Model:
    """A model for jobs that make whole runs.

    Args:
        name: What the user calls it.
        path: A transformers folder, or a hub id.
        batch: Runs that a job asks for at the same time.

    Raises:
        ControllerError: There is no vLLM of the right release, or no readable model.
    """
    check_installed()
    folder = ModelFolder.read(path)
    served = folder.served
    engine = VLLMEngine(folder, batch)
    return Model(
        name=name,
        backend="vllm",
        library=None,
        engine=engine,
        tokenizer=served.tokenizer,
        eos=folder.eos,
        depth=served.depth,
        width=served.width,
        context=folder.context,
        template=served.template,
        settings=served.settings,
        prompt=lambda question: folder.prompt([{"role": "user", "content": question}]),
        can=Capabilities(rollback=False, branches=0, fork=False, layers=served.depth, vocabulary=folder.vocabulary),
        chat=partial(_conversation, folder) if folder.tokenizer.chat_template else None,
    )


def _conversation(folder: ModelFolder, messages: Sequence[Message]) -> list[int]:
    return folder.prompt([message._asdict() for message in messages])
