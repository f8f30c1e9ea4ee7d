"""Quantities of memory: Kubernetes' notation to bytes, bytes to words."""

from __future__ import annotations

import re

SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
PATTERN = re.compile(r"([0-9]+(?:\.[0-9]+)?)(Ki|Mi|Gi|Ti|k|M|G|T)?")


def parse_bytes(text: str) -> int:
    """Bytes of a quantity such as 80Gi. Raises ValueError."""
    found = PATTERN.fullmatch(text)
    if found is None:
        raise ValueError(f"{text!r} is no quantity such as 80Gi")
    return int(float(found[1]) * SUFFIXES[found[2] or ""])


def show_bytes(count: float) -> str:
    """`37.2 GiB`, `512 MiB`, `3 KiB`."""
    for size, unit in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= size:
            return f"{count / size:.1f} {unit}" if unit == "GiB" else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"
