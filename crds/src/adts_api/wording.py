"""How values, alternatives and numbers read in an error message. Pure strings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from adts_api.topology import divisors

LONGEST = 60
"""Characters of a value that an error message repeats."""

LARGEST_FACTORED = 10**9
"""Larger numbers are not factored for a message: nobody trains with them, and it would take seconds."""

KINDS: dict[type, str] = {
    str: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    list: "a list",
    dict: "a mapping",
}


def show(value: Any) -> str:
    """A scalar as the manifest writes it: strings quoted, booleans in lower case, long ones cut."""
    if isinstance(value, bool):
        return str(value).lower()
    text = f"'{value}'" if isinstance(value, str) else str(value)
    text = text.encode("utf-8", "backslashreplace").decode().replace("\n", "\\n")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 4]}...'"


def describe(value: Any) -> str:
    """What a value is: `'ten' is a string`, `is a mapping`, `is null`."""
    if value is None:
        return "is null"
    kind = KINDS.get(type(value), f"a {type(value).__name__}")
    return f"is {kind}" if isinstance(value, (list, dict)) else f"{show(value)} is {kind}"


def one_of(choices: Iterable[Any], conjunction: str = "or") -> str:
    """Alternatives in words: `1, 2, 4 or 8`."""
    words = [str(choice) for choice in choices]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {conjunction} {words[-1]}"


def nearest_below_and_above(value: int, candidates: Iterable[int]) -> list[int]:
    """The largest candidate below value and the smallest above it, where there are such."""
    ordered = sorted(candidates)
    return [c for c in ordered if c < value][-1:] + [c for c in ordered if c > value][:1]


def use_divisor(value: int, whole: int, is_fit: Callable[[int], bool] = lambda divisor: True) -> str:
    """The fix where value is no fit divisor of whole: all of them if they are few, else the two around value."""
    if whole > LARGEST_FACTORED:
        return f"use a divisor of {whole}"
    candidates = [divisor for divisor in divisors(whole) if is_fit(divisor)]
    return f"use {one_of(candidates if len(candidates) <= 6 else nearest_below_and_above(value, candidates))}"


def use_multiple(value: int, unit: int) -> str:
    """The fix where value is no multiple of unit: the multiples around it."""
    below, above = value // unit * unit, -(-value // unit) * unit
    return f"use {one_of([below, above] if below else [above])}"
