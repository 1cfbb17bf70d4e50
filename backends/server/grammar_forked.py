"""Compiles grammars in forked processes, to see what they cost. Run as a module by `grammars`; nothing imports it."""

from __future__ import annotations

import json
import sys

from reasonctl.controller import ControllerError
from reasonctl.controller.core import Answer, answer_forever

from ..grammar import Compiler

SECONDS = 2
"""Processor time of one grammar."""
MOST_MEMORY = 1 << 28
"""Bytes that one grammar may take."""


def main() -> None:
    """Read the vocabulary, then answer."""
    first = json.loads(sys.stdin.buffer.readline())
    spelt = [(token, bytes.fromhex(piece)) for token, piece in first["pieces"]]
    eos = frozenset(first["eos"])
    compiler = Compiler(lambda: spelt)
    compiler.matcher('{"type": "boolean"}', "schema", eos)  # forks share what the vocabulary has cost

    def compiled(request: Answer) -> Answer:
        try:
            compiler.matcher(request["schema"], "schema", eos).allowed()
        except ControllerError as error:
            return {"error": str(error)}
        return {}

    answer_forever(compiled, SECONDS, MOST_MEMORY)


if __name__ == "__main__":
    main()
