"""STAR files: named tables of text, as RELION writes them."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

_WORD = re.compile(r"""'([^']*)'(?=\s|$)|"([^"]*)"(?=\s|$)|(\S+)""")


@dataclass
class Table:
    """One ``data_`` block, a looped one or a list of values, which is a table of one row.

    Args:
        name: Behind ``data_``.
        columns: Text of each row by label without its underscore.
        lines: Line of the file each row stands in, from 1.
        path: The file, for messages.
    """

    name: str
    columns: dict[str, list[str]]
    lines: list[int] = field(default_factory=list)
    path: Path = Path("table")

    def __len__(self) -> int:
        return len(next(iter(self.columns.values()), []))

    def __contains__(self, label: str) -> bool:
        return label in self.columns

    def text(self, label: str) -> list[str]:
        """A column.

        Raises:
            ValueError: If there is none.
        """
        if label not in self.columns:
            raise ValueError(f"{self.path}: table data_{self.name} has no column _{label}")
        return self.columns[label]

    def numbers(self, label: str, default: float | None = None) -> Tensor:
        """A column as float64 (rows,), or ``default`` in every row where the file has none.

        Raises:
            ValueError: If a word is no finite number, or the column is missing and there is no default.
        """
        if label not in self.columns and default is not None:
            return torch.full((len(self),), default, dtype=torch.float64)
        words = self.text(label)
        try:
            values = torch.tensor([float(word) for word in words], dtype=torch.float64)
        except ValueError:
            values = torch.tensor([_number(word) for word in words], dtype=torch.float64)
        wrong = ~torch.isfinite(values)
        if bool(wrong.any()):
            row = int(wrong.nonzero()[0])
            raise ValueError(f"{self.path}:{self._line(row)}: _{label} is {words[row]!r}; a finite number is expected")
        return values

    def _line(self, row: int) -> int:
        return self.lines[row] if row < len(self.lines) else 0


def _number(word: str) -> float:
    try:
        return float(word)
    except ValueError:
        return float("nan")


def read_star(path: Path | str) -> dict[str, Table]:
    """The tables of a STAR file by name.

    Text that spans lines, between semicolons, is refused: tables of particles have none.

    Raises:
        ValueError: If the file is missing, no text, or breaks the format; the message names the line.
    """
    path = Path(path)
    try:
        content = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a readable text file ({error})") from error
    tables: dict[str, Table] = {}
    table: Table | None = None
    looped, labels = False, list[str]()
    for number, words, is_quoted in _lines(content):
        first = "" if is_quoted else words[0]
        if first.startswith("data_"):
            table, looped, labels = Table(first[5:], {}, [], path), False, []
            if table.name in tables:
                raise ValueError(f"{path}:{number}: a second table data_{table.name}")
            tables[table.name] = table
        elif table is None:
            raise ValueError(f"{path}:{number}: {words[0]!r} before the first data_ line; is this a STAR file?")
        elif first == "loop_":
            if labels:
                raise ValueError(f"{path}:{number}: a second loop_ in table data_{table.name}")
            looped = True
        elif first.startswith("_") and not (looped and table.lines):
            label = first[1:]
            if label in table.columns:
                raise ValueError(f"{path}:{number}: column {first} a second time")
            if not looped and len(words) != 2:
                raise ValueError(f"{path}:{number}: {first} needs one value, it has {len(words) - 1}")
            labels.append(label)
            table.columns[label] = [] if looped else [words[1]]
            if not looped and not table.lines:
                table.lines.append(number)
        elif looped:
            if len(words) != len(labels):
                raise ValueError(f"{path}:{number}: {len(words)} values in a row of {len(labels)} columns")
            for label, word in zip(labels, words, strict=True):
                table.columns[label].append(word)
            table.lines.append(number)
        else:
            raise ValueError(f"{path}:{number}: {words[0]!r} is neither a label nor in a loop_")
    if not tables:
        raise ValueError(f"{path}: holds no data_ table; is this a STAR file?")
    return tables


def _lines(content: str) -> Iterator[tuple[int, list[str], bool]]:
    """Lines with words: number, words, and whether the first is quoted, so that it is a value whatever it says."""
    for number, line in enumerate(io.StringIO(content), start=1):
        if "'" not in line and '"' not in line:
            words = line.split()
            plain = [True] * len(words)
        else:
            found = _WORD.findall(line)
            words, plain = [a or b or c for a, b, c in found], [bool(c) for _, _, c in found]
        comment = next((at for at, word in enumerate(words) if plain[at] and word.startswith("#")), len(words))
        if comment:
            yield number, words[:comment], not plain[0]


def write_star(path: Path | str, tables: Mapping[str, Mapping[str, Sequence[object]]]) -> None:
    """Write looped tables, each a mapping of labels without underscore to columns of one length.

    Numbers are written with 9 significant digits, so that float32 comes back as it was.

    Raises:
        ValueError: If columns of a table differ in length, or a text cannot be written.
    """
    parts = ["# written by lightning_cim\n"]
    for name, columns in tables.items():
        if len({len(column) for column in columns.values()}) > 1:
            raise ValueError(f"columns of table data_{name} differ in length")
        parts.append(f"\ndata_{name}\n\nloop_\n")
        parts += [f"_{label} #{number}\n" for number, label in enumerate(columns, start=1)]
        for row in zip(*columns.values(), strict=True):
            parts.append(" ".join(map(_word, row)) + "\n")
    path = Path(path)
    part = path.with_name(path.name + ".part")
    part.write_text("".join(parts), encoding="utf-8")
    part.replace(path)


def _word(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.9g}"
    word = str(value)
    if word and not re.search(r"[\s'\"]", word) and word[0] not in "#_" and not word.startswith(("data_", "loop_")):
        return word
    if "\n" in word or '"' in word or not word:
        raise ValueError(f"{word!r} cannot be written into a STAR file")
    return f'"{word}"'
