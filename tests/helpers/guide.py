r"""Guides that run: the ``python`` blocks of a Markdown file in order, and what the ``text`` blocks after them show.

    python -m tests.helpers.guide docs/devices.md

runs a guide and writes what it printed into its ``text`` blocks, and the pictures that it saved beside it.

A ``text`` block is the output of the ``python`` blocks since the one before. All that a guide prints must be shown.
Comments on the line before a block say how it is treated:

* ``<!-- guide: skip -->``: the block is not run.
* ``<!-- guide: within=0.03 -->``: numbers with a decimal point may differ by this much; default: by one unit of the
  last digit shown. Integers and words must be the same; digests such as ``#1a2b3c4d`` and the widths of columns need
  not.
* ``<!-- guide: within=0.03 ignore=\d+$ -->``: nor is what this pattern finds, line by line.

A guide with a line ``<!-- guide: after=quickstart.md -->`` goes on from that one: its ``python`` blocks run first, in
the same namespace, and what they print is not looked at.
"""

from __future__ import annotations

import contextlib
import io
import math
import os
import re
import shutil
import sys
import tempfile
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

FENCE = re.compile(r"^```(\w*)[^\n]*\n(.*?)^```$", re.MULTILINE | re.DOTALL)
REMARK = re.compile(r"<!-- guide:\s*(.*?)\s*-->\n\Z")
PICTURE = re.compile(r"!\[[^\]]*\]\((images/[^)]+\.png)\)")
AFTER = re.compile(r"^<!-- guide: after=(\S+) -->$", re.MULTILINE)
NUMBER = re.compile(r"(?<![\w.])[-+]?\d+(?:\.\d+)?(?:e[-+]?\d+)?")


@dataclass(frozen=True)
class Block:
    """A fenced block of a guide.

    Attributes:
        kind: ``"python"``, ``"text"`` or another word after the fence.
        body: Its lines.
        start: Where the body starts in the guide's text.
        line: The number of the body's first line.
        remark: What the guide's comment before it says.
    """

    kind: str
    body: str
    start: int
    line: int
    remark: str

    @property
    def within(self) -> float | None:
        """How far decimals may be off; None: by a unit of the last digit shown."""
        found = re.search(r"within=(\S+)", self.remark)
        return float(found.group(1)) if found else None

    @property
    def ignore(self) -> str | None:
        """What is not compared."""
        found = re.search(r"ignore=(.+)", self.remark)
        return found.group(1) if found else None


@dataclass(frozen=True)
class Run:
    """What a guide did: each ``text`` block with what was printed for it."""

    shown: list[tuple[Block, str]]

    def differences(self) -> list[str]:
        """What is not as the guide shows it, with the guide's lines."""
        return [
            f"line {block.line + row}: shown {shown!r}, printed {printed!r}"
            for block, text in self.shown
            for row, shown, printed in differing_lines(block.body, text, block.within, block.ignore)
        ]


def blocks_of(text: str) -> list[Block]:
    """All fenced blocks of a guide."""
    blocks = []
    for fence in FENCE.finditer(text):
        remark = REMARK.search(text[: fence.start()])
        start = fence.start(2)
        line = text.count("\n", 0, start) + 1
        blocks.append(Block(fence.group(1), fence.group(2), start, line, remark.group(1) if remark else ""))
    return blocks


def pictures_of(text: str) -> list[str]:
    """The pictures of a guide that its code saves: paths relative to the guide."""
    return PICTURE.findall(text)


def run_guide(path: Path) -> Run:
    """Run a guide's blocks in one namespace and the current folder.

    Raises:
        ValueError: Something was printed that the guide does not show, or shows nothing where it should.
        Exception: Whatever the guide raises, with the guide's own lines in the traceback.
    """
    text = path.read_text(encoding="utf-8")
    namespace: dict[str, object] = {"__name__": "__main__"}
    for before in AFTER.findall(text):
        with contextlib.redirect_stdout(io.StringIO()):
            for block in blocks_of((path.parent / before).read_text(encoding="utf-8")):
                if _runs(block):
                    _execute(block, path.parent / before, namespace)
    shown, printed, last = [], io.StringIO(), 0
    for block in blocks_of(text):
        if _runs(block):
            with contextlib.redirect_stdout(printed):
                _execute(block, path, namespace)
            last = block.line
        elif block.kind == "text":
            shown.append((block, printed.getvalue()))
            printed = io.StringIO()
    if printed.getvalue():
        raise ValueError(f"{path}:{last}: printed, but shown nowhere: {printed.getvalue()[:200]!r}")
    return Run(shown)


def _runs(block: Block) -> bool:
    return block.kind == "python" and block.remark != "skip"


def _execute(block: Block, path: Path, namespace: dict[str, object]) -> None:
    exec(compile("\n" * (block.line - 1) + block.body, str(path), "exec"), namespace)


def differing_lines(
    shown: str, printed: str, within: float | None = None, ignore: str | None = None
) -> list[tuple[int, str, str]]:
    """Lines that differ: number from 0, as shown, as printed."""
    pairs = zip_longest(shown.rstrip().split("\n"), printed.rstrip().split("\n"), fillvalue="")
    return [(row, left, right) for row, (left, right) in enumerate(pairs) if not _same(left, right, within, ignore)]


def with_output(text: str, run: Run) -> str:
    """The guide with what was printed in its ``text`` blocks."""
    for block, printed in reversed(run.shown):
        body = "".join(f"{line.rstrip()}\n" for line in printed.splitlines())
        text = text[: block.start] + body + text[block.start + len(block.body) :]
    return text


def _same(shown: str, printed: str, within: float | None, ignore: str | None) -> bool:
    left, right = (_normalised(line, ignore) for line in (shown, printed))
    if NUMBER.sub("0", left) != NUMBER.sub("0", right):
        return False
    return all(_close(a, b, within) for a, b in zip(NUMBER.findall(left), NUMBER.findall(right), strict=True))


def _normalised(line: str, ignore: str | None) -> str:
    line = re.sub(ignore, "", line.rstrip()) if ignore else line
    line = re.sub(r"#[0-9a-f]{8}\b", "#", line)
    return " ".join(re.sub(r"-{2,}", "--", line).split())


def _close(shown: str, printed: str, within: float | None) -> bool:
    if shown == printed:
        return True
    mantissa, _, power = shown.partition("e")
    if "." not in mantissa and not power:
        return False
    last_digit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
    allowed = last_digit if within is None else within
    return math.isclose(float(shown), float(printed), rel_tol=0, abs_tol=allowed * (1 + 1e-6))


def main(path: Path) -> None:
    """Run a guide and write its output and pictures into it."""
    import matplotlib as mpl
    import torch

    mpl.use("Agg")
    torch.set_num_threads(1)
    path = path.resolve()
    home = Path.cwd()
    os.environ["PYTHONPATH"] = str(Path(__file__).parents[2])  # of programs that a guide starts
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            run = run_guide(path)
        finally:
            os.chdir(home)
        text = path.read_text(encoding="utf-8")
        for picture in pictures_of(text):
            saved = Path(folder, Path(picture).name)
            if not saved.exists():
                raise ValueError(f"{path}: shows {picture}, but no block saved {saved.name}")
            shutil.copyfile(saved, path.parent / picture)
    path.write_text(with_output(text, run), encoding="utf-8")
    for difference in run.differences():
        print(f"{path.name} {difference}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
