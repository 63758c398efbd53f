"""Draw the rooms of the package and which imports which, as the code has it: ``python docs/figures/house.py``."""

from __future__ import annotations

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lightning_cim"
PICTURE = ROOT / "docs" / "images" / "house.svg"

WIDTH, HEIGHT = 860, 610
ROOMS = {
    # Left, top, width and what is in it.
    "recipes": (30, 20, 800, "one field each: data, models, losses; public names only"),
    "cli": (30, 130, 250, "LightningCLI with --cim.*"),
    "strategies": (310, 130, 250, '"cim" and "cim_ddp"'),
    "callbacks": (170, 230, 390, "one Lightning callback a file"),
    "sweep": (30, 330, 130, "W&B's files, offline"),
    "codesign": (590, 230, 240, "network and hardware together"),
    "evaluation": (190, 330, 180, "Monte Carlo, worst case"),
    "programming": (400, 330, 180, "sensitivity, write-verify"),
    "chip": (260, 430, 250, "a model on simulated hardware"),
    "variation": (260, 530, 250, "what a device does to a value"),
}
TALL = 54
NOTES = (
    "arrow: imports, and never the other way",
    "purple: knows Lightning",
    "blue: imports no Lightning",
    "not drawn: lightning_cim/_*.py, used by any room",
)
ON_LIGHTNING = ("cli", "strategies", "callbacks")
_STYLE = (
    "text{font:600 15px system-ui,sans-serif;fill:#1b2a3a;text-anchor:middle}"
    ".about{font-weight:400;font-size:12px;fill:#41556b}.side{font-weight:400;font-size:12px;text-anchor:start;fill:#667}"
    "rect{fill:#eaf1f8;stroke:#4a6f94;rx:6}.lightning{fill:#f4e9fb;stroke:#7c4f99}.outside{fill:#f2f2ee;stroke:#888}"
    "path{stroke:#3b4a59;stroke-width:1.6;fill:none;marker-end:url(#tip)}"
)


def room_of(path: Path) -> str:
    """The room that a file of the package belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports() -> dict[str, set[str]]:
    """Which rooms each room imports, inside functions and for type checkers too; recipes may import all of them.

    Files of the package that begin with an underscore are no rooms: they import none, or stand before the rooms.
    """
    found: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        room = room_of(path)
        if room.startswith("_"):
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            inside = [name.split(".")[1] for name in names if name.startswith("lightning_cim.")]
            found.setdefault(room, set()).update(name for name in inside if name != room and not name.startswith("_"))
    return {"recipes": set(found), **found}


def arrows() -> list[tuple[str, str]]:
    """Importer and imported, without what follows from other arrows."""
    uses = imports()

    def reached(room: str) -> set[str]:
        return uses[room] | {far for near in uses[room] for far in reached(near)}

    return [
        (room, other)
        for room, direct in uses.items()
        for other in sorted(direct)
        if not any(other in reached(near) for near in direct - {other})
    ]


def drawing() -> str:
    """The picture, as SVG."""
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        ' aria-label="Rooms of lightning_cim; an arrow leads from a room to one that it imports">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
        '<polygon points="0,0 8,4 0,8" fill="#3b4a59"/></marker></defs>',
        f'<rect width="{WIDTH}" height="{HEIGHT}" style="fill:#fff;stroke:none"/>',
    ]
    for room, (left, top, width, about) in ROOMS.items():
        kind = "outside" if room == "recipes" else "lightning" if room in ON_LIGHTNING else "torch"
        middle = left + width / 2
        lines += [
            f'<rect class="{kind}" x="{left}" y="{top}" width="{width}" height="{TALL}"/>',
            f'<text x="{middle:g}" y="{top + 23}">{room}</text>',
            f'<text class="about" x="{middle:g}" y="{top + 42}">{about.replace("&", "&amp;")}</text>',
        ]
    lines += [_arrow(room, other) for room, other in arrows()]
    lines += [f'<text class="side" x="570" y="{440 + 22 * place}">{note}</text>' for place, note in enumerate(NOTES)]
    return "\n".join([*lines, "</svg>"]) + "\n"


def _arrow(room: str, other: str) -> str:
    """From the lower edge of a room to the upper edge of one below it; upright where they overlap."""
    (left, top, width, _), (low_left, low_top, low_width, _) = ROOMS[room], ROOMS[other]
    start, end = max(left, low_left), min(left + width, low_left + low_width)
    if end - start > 30:
        begin = finish = (start + end) / 2
    else:
        begin, finish = left + width / 2, low_left + low_width / 2
    return f'<path d="M{begin:g} {top + TALL} L{finish:g} {low_top}"/>'


if __name__ == "__main__":
    PICTURE.write_text(drawing(), encoding="utf-8")
