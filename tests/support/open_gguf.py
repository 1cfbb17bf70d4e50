"""Opens GGUF files, each in a process of its own, and prints how each of them ended. Run as a script with paths."""

from __future__ import annotations

import os
import signal
import sys

from reasonctl.backends.llama.load import load_gguf
from reasonctl.controller import ControllerError, Decode

READ, REFUSED, FAULT = 0, 3, 4
SECONDS, BYTES = 20, 6 << 30
"""Limits of one process."""


def opened(path: str) -> int:
    """Load the model, encode a text and run some tokens."""
    try:
        model = load_gguf(path)
        model.tokenizer.encode("52 a+3")
        model.engine.forward((Decode(model.engine.session(), [1, 2, 3]),))
    except ControllerError as error:
        return FAULT if "\n" in str(error) else REFUSED
    return READ


def main(paths: list[str]) -> None:
    import resource  # not on Windows

    for path in paths:
        pid = os.fork()
        if not pid:
            resource.setrlimit(resource.RLIMIT_AS, (BYTES, BYTES))
            signal.alarm(SECONDS)
            code = FAULT
            try:
                code = opened(path)
            finally:
                os._exit(code)
        status = os.waitpid(pid, 0)[1]
        print(path, os.waitstatus_to_exitcode(status), flush=True)  # a signal is negative


if __name__ == "__main__":
    main(sys.argv[1:])
