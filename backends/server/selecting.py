"""`reasonctl.samples`: the sample whose answer most others state."""

from __future__ import annotations

from collections.abc import Sequence

from reasonctl.controller.selection import AnswerClasses, mbr, sim_lcs, utility_matrix, vote
from reasonctl.controller.thinking import stated_answer


def chosen(texts: Sequence[str]) -> tuple[list[int], float | None]:
    """The sample that is returned.

    Stated answers are compared as texts. Where no sample states one, the text that is most like the others is taken.

    >>> chosen(["The answer is 4.", "The answer is 5.", "So the answer is 4."])
    ([0], 0.6666666666666666)

    Args:
        texts: The answer of each sample.

    Returns:
        Its number, and its share of the score.
    """
    classes = AnswerClasses(lambda one, other: one == other)
    for text in texts:
        classes.add((stated_answer(text) or "").strip())
    choice = vote(classes.labels) or mbr(utility_matrix(list(texts), sim_lcs))
    return [choice.index], choice.share
