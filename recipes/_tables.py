"""Tables of text."""

from __future__ import annotations

Cells = tuple[list[str], list[list[str]]]
"""Header and body."""


def text(cells: Cells) -> str:
    """A table for the terminal."""
    header, body = cells
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    ruler = ["-" * width for width in widths]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in [header, ruler, *body])


def markdown(cells: Cells) -> str:
    """A table for a README."""
    header, body = cells
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
