"""Samples of one prompt, and a vote that ends once it is decided: `python examples/samples_and_vote.py`."""

from reasonctl import Controller, load_exit, load_model, parse_policy
from reasonctl.backends import BUNDLED_PROBE
from reasonctl.controller import Call, Keys
from reasonctl.controller.selection import LosslessStop

model = load_model("tiny", batch=8, threads=1)
call = Call(
    prompt=model.prompt("52 a+3 b-6 c+8"),
    max_new_tokens=300,
    eos=model.eos,
    keys=Keys(seed=1),
    policy=parse_policy("temperature(0.9)"),
)
controller = Controller(exit=load_exit(BUNDLED_PROBE, risk=0.05), codes="arithmetic")
with controller.samples(model.engine, model.tokenizer, call, 8, stop=LosslessStop()) as samples:
    for number, trace in enumerate(samples, start=1):
        print(f"sample {number}: {len(trace.tokens)} tokens, {trace.why}")
for answer in samples.answers:
    print(repr(answer))
vote = samples.vote
print(f"the vote: sample {vote.index + 1}, {100 * vote.share:.0f} % of the votes; {samples.cost} tokens in all")
