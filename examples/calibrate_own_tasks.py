"""From your own questions to a probe, and a run under it: `python examples/calibrate_own_tasks.py [FOLDER]`.

The same in a shell: ctl calibrate MODEL --tasks my.jsonl --out my.probe.safetensors -n 300
"""

import json
import sys
from pathlib import Path

from llama_cpp import Llama

from reasonctl import Controller, attach, load_exit
from reasonctl.backends import tiny_folder
from reasonctl.calibration.cli.main import cli
from reasonctl.calibration.tasks.tiny import fresh_problems

folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".")
tasks, probe = folder / "my.jsonl", folder / "my.probe.safetensors"
with tasks.open("w", encoding="utf-8") as file:
    for problem in fresh_problems(150, 7):  # put your own here: a line for each question and its answer
        file.write(json.dumps({"question": problem.question, "answer": problem.answer}) + "\n")

settings = ["--out", str(probe), "-n", "140", "--fit", "60", "--force", "--no-report"]
cli(["calibrate", "tiny", "--tasks", str(tasks), *settings], standalone_mode=False)

rule = load_exit(probe, risk=0.1)
print(rule.why)
llm = Llama(str(tiny_folder() / "tiny.gguf"), n_ctx=1024, verbose=False)
with attach(llm, Controller(exit=rule)) as handle:
    reply = llm.create_chat_completion([{"role": "user", "content": "52 a+3 b-6 c+8"}], max_tokens=768, seed=1)
    print(reply["choices"][0]["message"]["content"].splitlines()[-1])
    print(f"[{handle.trace.why}]")
