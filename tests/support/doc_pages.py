"""The pages of the documentation as their parts: headings, links, words in code, and blocks of code."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
FENCE = "```"
HEADING = re.compile(r"#{1,6} (.+)")
LINK = re.compile(r"\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`\n]+)`")


@dataclass(frozen=True)
class Block:
    """One fenced block."""

    page: str
    section: str
    """The last heading above it."""
    language: str
    """The word behind the fence: `sh` is run by a test, `console` is not."""
    text: str


@dataclass(frozen=True)
class Page:
    """One page, by its path below the checkout."""

    name: str
    headings: tuple[str, ...]
    links: tuple[str, ...]
    spans: tuple[str, ...]
    """Code within the text."""
    blocks: tuple[Block, ...]

    @property
    def anchors(self) -> set[str]:
        """What a link may say behind `#`, as the hosts of repositories make it of a heading."""
        plain = (re.sub(r"[^\w\- ]", "", heading.lower()) for heading in self.headings)
        return {heading.strip().replace(" ", "-") for heading in plain}

    @property
    def code(self) -> tuple[str, ...]:
        """Everything that is set as code."""
        return (*self.spans, *(block.text for block in self.blocks))


@cache
def pages() -> tuple[Page, ...]:
    """Every page that users and contributors read."""
    found = [*CHECKOUT.glob("*.md"), *CHECKOUT.glob("docs/**/*.md"), *CHECKOUT.glob("charts/*/*.md")]
    return tuple(read(path) for path in sorted([*found, CHECKOUT / "examples/README.md"]))


def page(name: str) -> Page:
    """One of them."""
    return next(it for it in pages() if it.name == name)


def read(path: Path) -> Page:
    """The page of a file."""
    name = str(path.relative_to(CHECKOUT))
    prose: list[str] = []
    headings: list[str] = []
    blocks: list[Block] = []
    opened: list[str] | None = None
    language = ""
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith(FENCE):
            if opened is None:
                opened, language = [], line.removeprefix(FENCE)
            else:
                blocks.append(Block(name, headings[-1], language, "\n".join(opened) + "\n"))
                opened = None
        elif opened is not None:
            opened.append(line)
        else:
            prose.append(line)
            if found := HEADING.fullmatch(line):
                headings.append(found[1])
    text = "\n".join(prose)
    return Page(name, tuple(headings), tuple(LINK.findall(text)), tuple(SPAN.findall(text)), tuple(blocks))


def command_lines(text: str) -> Iterator[str]:
    """The commands of a shell block: continued lines joined, prompts, comments and here-documents left out."""
    lines = iter(text.replace("\\\n", " ").splitlines())
    for line in lines:
        command = line.removeprefix("$ ").partition(" #")[0].strip()
        if command and not command.startswith("#"):
            yield command
        if (here := re.search(r"<<'?(\w+)'?", line)) is not None:
            while next(lines, here[1]) != here[1]:
                pass
