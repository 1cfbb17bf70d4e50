"""Prompts of three kinds on which drafting is measured: copying a given text, writing code, reasoning about numbers."""

from __future__ import annotations

_REPORT = (
    "The harbour office opens at seven in the morning and closes at five in the afternoon. Ships that "
    "arrive at night wait outside the breakwater until a pilot comes aboard. The pilot station keeps two "
    "boats, one of which is always ready. In winter the northern channel is closed to ships above eighty "
    "metres, because the current there turns without warning. Captains must report their draught, their "
    "cargo and the number of people aboard before they enter. Fees are due within thirty days and grow by "
    "two per cent for each month of delay."
)
_CODE = """class Account:
    def __init__(self, owner, balance=0):
        self.owner = owner
        self.balance = balance

    def deposit(self, amount):
        if amount <= 0:
            raise ValueError("amount must be positive")
        self.balance += amount

    def withdraw(self, amount):
        if amount > self.balance:
            raise ValueError("not enough money")
        self.balance -= amount
"""

DRAFT_PROMPTS: dict[str, tuple[str, ...]] = {
    "copy": (
        f"Copy this text word by word, but write 'port' in place of 'harbour':\n\n{_REPORT}",
        f"Rename the class to Wallet and give the whole code back, changing nothing else:\n\n```python\n{_CODE}```",
        "Correct the spelling of this text where it is wrong and repeat all of it:\n\n"
        + _REPORT.replace("because", "becuase"),
        f"Add a docstring to each method and give the whole code back:\n\n```python\n{_CODE}```",
    ),
    "code": (
        "Write a Python function that merges two sorted lists into one sorted list, with tests.",
        "Write a Python class for a queue on two stacks, with methods push, pop, peek and is_empty.",
        "Write a Python script that reads a CSV file and prints the mean of every numeric column.",
        "Write a Python function that solves a sudoku by backtracking, and explain it in comments.",
    ),
    "maths": (
        "A train leaves at 9:40 and travels 156 km at 72 km/h, then waits 15 minutes and travels 84 km at 56 km/h. "
        "When does it arrive? Think step by step.",
        "Tom has 3 times as many marbles as Ann. Together with Lea's 14 they have 70. How many has each? Step by step.",
        "Compute 17 * 23 - 144 / 12 + 5 * (31 - 18) step by step, checking each step.",
        "A tank of 240 litres is filled by two pipes, 5 and 7 litres a minute, and drained at 3. How long until "
        "it is full, if the second pipe starts 6 minutes late? Think step by step.",
    ),
}
"""Four prompts of each kind, by kind."""
