"""Text tables, pictures and the run's report.html."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

import lightning_cim as cim
from recipes.arrhythmia.records import FS
from recipes.arrhythmia.windows import Windows

if TYPE_CHECKING:
    from numpy.typing import NDArray

Row = dict[str, Any]
Table = tuple[list[str], list[list[str]]]

PLAIN, NOISY, ALARM = "#1f4e79", "#2e8b57", "#c0392b"
COLOURS = {"dense": "#7f7f7f", "plain": PLAIN, "variation": NOISY}


def accuracy_table(rows: Sequence[Row]) -> Table:
    """Windows and votes of six on the test patients; intervals are 95 % bootstraps over patients."""
    header = ["net or rule", "acc %", "95 %", "F2", "95 %", "missed VA %", "specificity %"]
    header += ["vote acc %", "vote F2", "if independent %"]
    body = []
    for row in rows:
        line = [row["name"], _pc(row["acc"]), f"{_pc(row['acc_low'])} - {_pc(row['acc_high'])}"]
        line += [f"{row['f2']:.3f}", f"{row['f2_low']:.3f} - {row['f2_high']:.3f}"]
        line += [_pc(row["missed_va"]), _pc(row["spe"])]
        if "vote_acc" in row:
            line += [_pc(row["vote_acc"]), f"{row['vote_f2']:.3f}", _pc(row["vote_if_independent"], 2)]
        else:
            line += ["-", "-", "-"]
        body.append(line)
    return header, body


def rhythm_table(rows: Sequence[Row]) -> Table:
    """Share of right windows by rhythm."""
    rhythms = list(rows[0]["rhythm_acc"])
    return ["net or rule", *rhythms], [[row["name"], *(_pc(row["rhythm_acc"][r]) for r in rhythms)] for row in rows]


def patient_table(rows: Sequence[Row], worst: int = 3) -> Table:
    """F2 over patients: quartiles, share above .95, and the worst patients."""
    header = ["net or rule", "median F2", "lower quartile", "patients with F2 > .95 %", f"{worst} worst patients"]
    body = []
    for row in rows:
        scores = row["patient_f2"]
        values = list(scores.values())
        named = ", ".join(f"{p} {scores[p]:.2f}" for p in sorted(scores, key=scores.__getitem__)[:worst])
        body.append([row["name"], f"{np.median(values):.3f}", f"{np.quantile(values, 0.25):.3f}", _pc(row["g"]), named])
    return header, body


def chip_table(rows: Sequence[Row]) -> Table:
    """What simulated chips make of each net."""
    header = ["net", "sigma", "acc mean % ± std", "KPP 1 % [95 %]", "KPP 5 % [95 %]", "worst chip %"]
    header += ["F2 mean", "missed VA % mean ± std", "missed VA % KPP 5 %"]
    body = []
    for row in rows:
        acc, missed = row["acc"], row["missed_va"]
        body.append(
            [
                row["name"],
                f"{row['sigma']:g}",
                f"{_pc(acc['mean'])} ± {_pc(acc['std'])}",
                _interval(acc["kpp1"]),
                _interval(acc["kpp5"]),
                _pc(acc["worst"]),
                f"{row['f2']['mean']:.3f}",
                f"{_pc(missed['mean'])} ± {_pc(missed['std'])}",
                _interval(missed["kpp5"]),
            ]
        )
    return header, body


def plain_table(rows: Sequence[Row]) -> Table:
    """Any rows of plain numbers and words."""
    header = list(rows[0])
    return header, [[_cell(row[key]) for key in header] for row in rows]


def text(table: Table) -> str:
    """A table for the terminal."""
    header, body = table
    widths = [max(len(line[i]) for line in [header, *body]) for i in range(len(header))]
    ruler = ["-" * width for width in widths]
    padded = (map(str.ljust, line, widths) for line in [header, ruler, *body])
    return "\n".join("  ".join(line).rstrip() for line in padded)


def strips_figure(windows: Windows, decision: NDArray[np.bool_], strips: int = 6) -> Figure:
    """Strips of the test patients, each window shaded by what the net called it; wrong windows are outlined."""
    wrong = decision != (windows.y == 1)
    called_va = [s for s in np.unique(windows.strip) if windows.y[windows.strip == s][0] == 1]
    others = [s for s in np.unique(windows.strip) if s not in called_va]
    mistaken = [s for s in np.unique(windows.strip) if wrong[windows.strip == s].any()]
    chosen: list[int] = []
    for pool, count in ((called_va, 2), (others, 2), (mistaken, strips)):
        chosen += _one_a_patient([s for s in pool if s not in chosen], windows)[: min(count, strips - len(chosen))]
    figure = Figure(figsize=(11, 1.35 * len(chosen) + 0.6), layout="constrained")
    axes = figure.subplots(len(chosen), 1, squeeze=False)[:, 0]
    for ax, strip in zip(axes, chosen, strict=True):
        inside = np.flatnonzero(windows.strip == strip)[:6]
        length = windows.x.shape[1]
        for index in inside:
            begin = int(windows.start[index]) / FS
            ax.plot(begin + np.arange(length) / FS, windows.x[index], color="#333333", linewidth=0.5)
            ax.axvspan(begin, begin + length / FS, color=ALARM if decision[index] else NOISY, alpha=0.15, linewidth=0)
            if wrong[index]:
                ax.axvspan(begin, begin + length / FS, fill=False, edgecolor=ALARM, linewidth=1.5)
        first = inside[0]
        ax.set_ylabel(f"{windows.rhythm[first]}\n{windows.patient[first]}", rotation=0, ha="right", va="center")
        ax.set_yticks([])
        ax.margins(x=0)
    axes[-1].set_xlabel("seconds  (shaded red: called VA, green: called not VA, red frame: wrong)")
    return figure


def _one_a_patient(strips: Sequence[int], windows: Windows) -> list[int]:
    first = {windows.patient[windows.strip == strip][0]: strip for strip in reversed(strips)}
    return sorted(first.values())


def confusion_figure(rows: Sequence[Row]) -> Figure:
    """Confusion matrices of the windows, in per cent of each true class."""
    figure = Figure(figsize=(3.1 * len(rows), 2.9), layout="constrained")
    for ax, row in zip(figure.subplots(1, len(rows), squeeze=False)[0], rows, strict=True):
        counts = np.array([[row["tn"], row["fp"]], [row["fn"], row["tp"]]], dtype=float)
        share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
        ax.imshow(share, cmap="Blues", vmin=0, vmax=1)
        for i in range(2):
            for j in range(2):
                colour = "white" if share[i, j] > 0.5 else "black"
                ax.text(j, i, f"{100 * share[i, j]:.1f} %\n{counts[i, j]:.0f}", ha="center", va="center", color=colour)
        ax.set_xticks([0, 1], ["not VA", "VA"])
        ax.set_yticks([0, 1], ["not VA", "VA"])
        ax.set_xlabel("called")
        ax.set_ylabel("is")
        ax.set_title(row["name"])
    return figure


def chips_figure(results: dict[tuple[str, float], cim.ChipResult]) -> Figure:
    """Histograms of accuracy over chips, one panel a sigma, with each net's 5th percentile."""
    sigmas = sorted({sigma for _, sigma in results})
    figure = Figure(figsize=(3.8 * len(sigmas), 3.2), layout="constrained")
    for ax, sigma in zip(figure.subplots(1, len(sigmas), squeeze=False)[0], sigmas, strict=True):
        nets = [name for name, at in results if at == sigma]
        samples = {name: 100 * results[name, sigma].of("test/acc") for name in nets}
        edges = np.linspace(min(map(np.min, samples.values())), max(map(np.max, samples.values())) + 1e-9, 30)
        for name, sample in samples.items():
            mark = 100 * results[name, sigma].kpp("test/acc", 5).value
            ax.hist(sample, edges, color=COLOURS[name], alpha=0.55, label=f"{name}: mean {sample.mean():.1f}")
            ax.axvline(mark, color=COLOURS[name], linestyle="--", label=f"{name}: KPP 5 % {mark:.1f}")
        ax.set_title(f"sigma = {sigma:g}")
        ax.set_xlabel("window accuracy %")
        ax.set_ylabel("chips")
        ax.set_ylim(top=1.4 * ax.get_ylim()[1])  # room for the legend
        ax.legend(fontsize="x-small", loc="upper left")
    return figure


def write_html(path: Path, title: str, lead: str, sections: Sequence[tuple[str, str, Table | Figure | str]]) -> None:
    """One self-contained page.

    Args:
        path: Where.
        title: Of the page.
        lead: One paragraph below it.
        sections: Heading, note, and a table, a figure or a piece of code.
    """
    parts = [f"<h1>{html.escape(title)}</h1><p>{html.escape(lead)}</p>"]
    for heading, note, content in sections:
        parts.append(f"<h2>{html.escape(heading)}</h2><p>{html.escape(note)}</p>")
        if isinstance(content, str):
            parts.append(f"<pre>{html.escape(content)}</pre>")
        else:
            parts.append(_image(content, heading) if isinstance(content, Figure) else _html_table(content))
    page = f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{html.escape(title)}</title>{_STYLE}"
    path.write_text(f"{page}<main>{''.join(parts)}</main></html>\n", encoding="utf-8")


def save_png(figure: Figure, path: Path) -> None:
    """Write a picture."""
    figure.savefig(path, dpi=110)


def _image(figure: Figure, alt: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f"<img alt='{html.escape(alt)}' src='data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}'>"


def _html_table(table: Table) -> str:
    header, body = table
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in body)
    return f"<div class='scroll'><table><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"


def _cell(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _pc(share: float, digits: int = 1) -> str:
    return f"{100 * share:.{digits}f}" if np.isfinite(share) else "-"


def _interval(mark: dict[str, float]) -> str:
    low, high = (_pc(mark[end]) if np.isfinite(mark[end]) else "?" for end in ("low", "high"))
    return f"{_pc(mark['value'])} [{low}, {high}]"


_STYLE = """<style>
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;margin:0}
main{max-width:1340px;margin:2rem auto;padding:0 1rem}
h1{font-size:1.6rem;margin-bottom:.3rem} h2{font-size:1.15rem;margin:2rem 0 .2rem}
p{margin:.2rem 0 .7rem;max-width:75ch}
pre{background:#f4f6f8;padding:.7rem 1rem;overflow-x:auto}
.scroll{overflow-x:auto} table{border-collapse:collapse;font-size:.86rem}
th,td{padding:.25rem .6rem;text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left} thead th{border-bottom:2px solid #444}
tbody tr:nth-child(even){background:#f4f6f8}
img{max-width:min(100%,1120px);height:auto}
</style>"""

mpl.rcParams.update({"axes.spines.top": False, "axes.spines.right": False, "font.size": 9})
