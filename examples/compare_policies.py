"""Sampling policies on the same prompt and seeds: `python examples/compare_policies.py`."""

from llama_cpp import Llama

from reasonctl import Controller, attach, parse_policy
from reasonctl.backends import tiny_folder

POLICIES = ("greedy", "temperature(0.6)", "temperature(1.2) | min_p(0.1)", "edt(t0=0.8,theta=0.4)")
llm = Llama(str(tiny_folder() / "tiny.gguf"), n_ctx=512, verbose=False)
question = [{"role": "user", "content": "52 a+3 b-6 c+8"}]
for text in POLICIES:
    with attach(llm, Controller(policy=parse_policy(text), record=True)) as handle:
        lengths, warmth, answers = [], [], set()
        for seed in range(4):
            reply = llm.create_chat_completion(question, max_tokens=300, seed=seed)
            answers.add(reply["choices"][0]["message"]["content"].splitlines()[-1])
            lengths.append(len(handle.trace.tokens))
            warmth += [one for one in handle.trace.temperatures if one is not None]
    mean = sum(warmth) / len(warmth)
    print(f"{text:30}  {sum(lengths) / 4:6.1f} tokens a run, mean temperature {mean:.2f}, answers: {sorted(answers)}")
