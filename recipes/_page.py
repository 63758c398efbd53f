"""A self-contained report.html, as all recipes write it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure

from recipes._tables import Cells

Part = tuple[str, object]
"""Kind (``h2``, ``h3``, ``p``, ``note``, ``pre``, ``list``, ``table`` or ``figure``) and content."""


def write_page(path: Path, title: str, parts: Sequence[Part]) -> None:
    """Write one page that needs no other file.

    Args:
        path: Where.
        title: Of the page.
        parts: Its content, in order.
    """
    body = "".join(_part(kind, content) for kind, content in parts)
    head = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>{_STYLE}"
    path.write_text(f"{head}<main><h1>{html.escape(title)}</h1>{body}</main></html>\n", encoding="utf-8")


def _part(kind: str, content: object) -> str:
    if isinstance(content, Figure):
        return _image(content)
    if kind == "table":
        return _table(content)  # type: ignore[arg-type]
    if kind == "list":
        items = "".join(f"<dt>{html.escape(term)}</dt><dd>{html.escape(text)}</dd>" for term, text in content)  # type: ignore[attr-defined]
        return f"<dl>{items}</dl>"
    tag, attribute = ("p", " class='note'") if kind == "note" else (kind, "")
    return f"<{tag}{attribute}>{html.escape(str(content))}</{tag}>"


def _table(cells: Cells) -> str:
    header, body = cells
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in body)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120)
    code = base64.b64encode(buffer.getvalue()).decode()
    width = round(figure.get_figwidth() * 100)
    return f"<img alt='' width='{width}' src='data:image/png;base64,{code}'>"


_STYLE = """<style>
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;margin:0}
main{max-width:1340px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.3rem} h2{font-size:1.25rem;margin:2.2rem 0 .2rem}
h3{font-size:1rem;margin:1.4rem 0 .2rem}
p{margin:.2rem 0 .7rem;max-width:80ch} .note{color:#555;font-size:.9rem}
pre{background:#f4f6f8;padding:.7rem 1rem;font-size:.88rem;white-space:pre-wrap}
.scroll{overflow-x:auto} table{border-collapse:collapse;font-size:.86rem}
th,td{padding:.28rem .45rem;text-align:right;white-space:nowrap} th{white-space:normal}
th:first-child,td:first-child{text-align:left} thead th{border-bottom:2px solid #444;vertical-align:bottom}
tbody tr:nth-child(even){background:#f4f6f8}
dl{display:grid;grid-template-columns:max-content 1fr;gap:.25rem 1.2rem;max-width:110ch;font-size:.92rem}
dt{font-weight:600} dd{margin:0}
img{max-width:100%;height:auto}
</style>"""

mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
