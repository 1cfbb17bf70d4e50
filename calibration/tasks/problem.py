"""A problem, and the identity that keeps fitting, calibration and evaluation apart."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True)
class Problem:
    """A question, the gold answer where there is one, and the domain that its promise may be made for."""

    question: str
    answer: str | None
    domain: str = ""

    @property
    def id(self) -> int:
        """63 bits of the question's hash: what keeps fitting, calibration and evaluation apart."""
        return int.from_bytes(hashlib.sha256(self.question.encode()).digest()[:8], "big") >> 1
