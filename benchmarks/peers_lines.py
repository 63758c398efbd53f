"""Lines of code that a toolkit asks of its user, counted in the files that the benchmark runs."""

from __future__ import annotations

from pathlib import Path


def count_lines(path: Path, region: str) -> int:
    """Lines between ``# >>> region`` and ``# <<<``, in all such regions of a file, without blank and comment lines.

    Args:
        path: A Python file.
        region: Its name.

    Raises:
        ValueError: No region of this name, a region inside another, or one that does not end.
    """
    counted, inside, found = 0, "", False
    for number, line in enumerate(path.read_text().splitlines(), start=1):
        text = line.strip()
        if text.startswith("# >>>"):
            if inside:
                raise ValueError(f"{path.name}:{number}: region {inside!r} is still open; close it with '# <<<'")
            inside = text.removeprefix("# >>>").strip()
            found = found or inside == region
        elif text == "# <<<":
            if not inside:
                raise ValueError(f"{path.name}:{number}: '# <<<' closes nothing; open a region with '# >>> NAME'")
            inside = ""
        elif inside == region and text and not text.startswith("#"):
            counted += 1
    if inside:
        raise ValueError(f"{path.name}: region {inside!r} does not end; close it with '# <<<'")
    if not found:
        raise ValueError(f"{path.name}: no region {region!r}; mark one with '# >>> {region}' and '# <<<'")
    return counted
