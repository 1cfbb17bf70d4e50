"""A batch of prompts in one call, each row with its own exit: `python examples/batch.py`."""

from transformers import AutoModelForCausalLM, AutoTokenizer

from reasonctl import Controller, attach, load_exit
from reasonctl.backends import BUNDLED_PROBE, tiny_folder

model, tokenizer = (kind.from_pretrained(tiny_folder()) for kind in (AutoModelForCausalLM, AutoTokenizer))
questions = ["52 a+3 b-6 c+8", "40 a-7 b+5 c+5", "74 a-6 b-7 c-8"]
chats = [[{"role": "user", "content": question}] for question in questions]
tokenizer.padding_side = "left"
inputs = tokenizer.apply_chat_template(
    chats, add_generation_prompt=True, padding=True, return_tensors="pt", return_dict=True
)
with attach(model, Controller(exit=load_exit(BUNDLED_PROBE, risk=0.05)), tokenizer=tokenizer) as handle:
    rows = model.generate(**inputs, max_new_tokens=300, do_sample=False)
    new = rows[:, inputs["input_ids"].shape[1] :]
    answers = tokenizer.batch_decode(new, skip_special_tokens=True)
    for question, text, trace in zip(questions, answers, handle.traces, strict=True):
        print(f"{question}: {text.splitlines()[-1]} [{trace.why}]")
