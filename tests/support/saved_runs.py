"""Saved runs of any size, and a hostile one."""

from __future__ import annotations

from reasonctl.controller import Decision, Trace
from reasonctl.controller.core import SavedRun
from reasonctl.controller.core.trace import Source, ThinkingSpan

HOSTILE = "</script><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\"> \u2028 & \x00"
"""A text that would run, were it read as markup."""
WORDS = ("so ", "we ", "add ", "the ", "number ", "and ", "check\n", "it ", "again. ", "naïve ")


def saved_run(
    tokens: int = 40, cues: int = 3, *, seed: int = 0, text: bool = True, hostile: bool = False, exits: bool = True
) -> SavedRun:
    """A run of so many tokens with an exit at its last cue; drafted and forced tokens are among them."""
    sources: list[Source] = ["draft" if i % 7 == 3 else "model" for i in range(tokens)]
    end = tokens * 3 // 4
    sources[end : end + 2] = ["forced", "forced"]
    places = [end * (i + 1) // cues for i in range(cues)]
    name = HOSTILE if hostile else "wait"
    decisions = [
        Decision(exits and i == cues - 1, name, i, place, (i + 1) / (cues + 1), 0.7) for i, place in enumerate(places)
    ]
    trace = Trace(
        prompt_tokens=5,
        tokens=[7] * tokens,
        sources=sources,
        entropies=[None if source == "forced" else (i * 37 % 101) / 33 for i, source in enumerate(sources)],
        temperatures=[None if source == "forced" else 0.2 + (i % 9) / 10 for i, source in enumerate(sources)],
        cost=tokens + 3,
        forwards=tokens,
        controlled=True,
        seed=seed,
        decisions=decisions,
        spans=[ThinkingSpan(0, end, "exit" if exits else "model", 2)],
        finish_reason="stop",
        rule=HOSTILE if hostile else "exit above 0.7",
        warnings=[HOSTILE] if hostile else [],
        drift={"runs": 3, "evidence": 1.5, "alarm": seed % 9 == 4, "level": 0.01},
    )
    run = SavedRun.of(trace, model="toy", plain_tokens=2 * tokens, right=seed % 5 != 0)
    if text:
        run.question = HOSTILE if hostile else f"How many are {seed} and 7?"
        run.pieces = [WORDS[(i * i + seed) % len(WORDS)] for i in range(tokens)]
        if hostile:
            run.pieces[1] = HOSTILE
    return run
