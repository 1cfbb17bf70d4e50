"""What a batch takes of llama.cpp: its sequences, its cells, and memory that is counted."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from llama_cpp import llama_cpp as C

from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.load import load_model
from reasonctl.controller import ControllerError
from support.llama_models import TINY, open_llama


def test_a_batch_has_the_sequences_that_it_needs_and_one_run_no_more_than_before():
    for batch, sequences in ((1, 16), (2, 12), (4, 16), (16, 40)):
        engine = LlamaEngine(open_llama(n_ctx=256), hidden=False, batch=batch)
        assert C.llama_n_seq_max(engine.context.llm.ctx) == engine.context.sequences == sequences
        assert engine.batch == batch and engine.most_sessions == (15 if batch == 1 else 2 * batch)
        engine.close()
    for batch in (0, 5, 200):
        with pytest.raises(ControllerError, match=f"batch is {batch}; llama.cpp takes 1 to 4 runs"):
            LlamaEngine(open_llama(n_ctx=256, n_batch=16), hidden=False, batch=batch)
    model = load_model("tiny", threads=1, batch=3, context=200)
    assert model.context == 256 and model.engine.room == 1024 >= 3 * (256 + 32)
    assert load_model("tiny", threads=1, batch=100).engine.room == 32768


GROWTH = """
from llama_cpp import Llama
from reasonctl.backends.llama.engine import LlamaEngine
from reasonctl.backends.llama.cache_kind import LEAVES
from reasonctl.controller import Decode

def resident():
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmRSS"))

def use(engine):
    session = engine.session()
    engine.forward((Decode(session, [5] * 64),))
    engine.forward((Decode(session, [5]),))

llm = Llama({path!r}, n_ctx=2048, n_threads=1, n_threads_batch=1, verbose=False)
cells, before = llm.n_ctx(), 0
for batch in (1, 1, 1, {batch}):
    engine = LlamaEngine(llm, hidden=False, batch=batch)
    use(engine)
    before, now = resident(), before
    assert llm.n_ctx() == engine.room == cells
    engine.close()
print(engine.added_bytes, before - now)
"""


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads /proc")
def test_what_an_engine_adds_to_memory_is_known_and_small():
    """The cells stay those of the Llama; a batch of 16 takes what is counted more than a batch of 1."""
    counted, resident = [], []
    for batch in (1, 16):
        script = GROWTH.format(path=str(TINY), batch=batch)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        for found, number in zip((counted, resident), done.stdout.split(), strict=True):
            found.append(int(number))
    print(f"by count {counted}, resident {resident} bytes")
    assert 0 < counted[0] < 200_000 and counted[0] < counted[1] < 400_000
    # The allocator keeps or returns buffers of up to 6 MB by chance; 16 caches of their own would take over 100 MB.
    assert resident[1] - resident[0] < counted[1] - counted[0] + (16 << 20)
