"""What a package pulls in beyond what is there already: bytes and distributions, from the files that pip recorded."""

from __future__ import annotations

import importlib.metadata
import sys
from collections.abc import Iterable
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def closure(requirements: Iterable[str]) -> set[str]:
    """Names of the distributions that requirements pull in here, themselves included.

    Args:
        requirements: As in a pyproject.toml: ``"fsspec[http]>=2024"``. Only the names and extras count.

    Raises:
        ValueError: If one of them is not installed.

    Example:
        >>> {"torch", "sympy", "mpmath"} <= closure(["torch>=2"])
        True
    """
    found: set[tuple[str, str]] = set()
    waiting = [(Requirement(text), "") for text in requirements]
    while waiting:
        requirement, reason = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": reason}):
            continue
        name = canonicalize_name(requirement.name)
        try:
            needed = importlib.metadata.distribution(name).requires or []
        except importlib.metadata.PackageNotFoundError:
            raise ValueError(f"{name} is not installed, so its size is unknown; run `make bench-peers`") from None
        for extra in {"", *requirement.extras} - {seen for other, seen in found if other == name}:
            found.add((name, extra))
            waiting += [(Requirement(text), extra) for text in needed]
    return {name for name, _ in found}


def installed_bytes(names: Iterable[str]) -> int:
    """Bytes that the wheels of distributions unpacked, by their RECORD files; compiled bytecode is not counted."""
    return sum(
        file.size or 0
        for name in names
        for file in importlib.metadata.distribution(name).files or []
        if file.suffix != ".pyc"
    )


def source_bytes(package: Path) -> int:
    """Bytes of a package's folder, which are those of its wheel; compiled bytecode is not counted."""
    return sum(path.stat().st_size for path in package.rglob("*") if path.is_file() and path.suffix != ".pyc")


def requirements_of(pyproject: Path) -> list[str]:
    """The run-time dependencies that a pyproject.toml names."""
    dependencies: list[str] = tomllib.loads(pyproject.read_text())["project"]["dependencies"]
    return dependencies
