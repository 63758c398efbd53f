"""The recipe on every patient-disjoint fold, and the means over folds."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recipes.arrhythmia import report

Row = dict[str, Any]


def crossval(main: Callable[[list[str]], dict[str, Any]], args: list[str]) -> dict[str, Any]:
    """Run ``fit`` once a fold; finished folds of an earlier, killed run are kept.

    Args:
        main: The recipe's entry.
        args: Arguments of ``fit``; ``--out`` is the folder of all folds and ``--data.folds`` their number.

    Returns:
        The tables over folds, also written as ``crossval.json`` and ``crossval.txt``.
    """
    out, folds = Path(_value(args, "--out", "runs/ecg-crossval")), int(_value(args, "--data.folds", "5"))
    rest = [word for word in args if not word.startswith(("--out=", "--data.fold=", "--data.folds="))]
    found = []
    for fold in range(folds):
        common = [f"--data.fold={fold}", f"--data.folds={folds}", f"--out={out / f'fold{fold}'}"]
        found.append(main(["fit", *rest, *common]))
    summary = {"folds": folds, "accuracy": _accuracy(found), "chips": _chips(found)}
    tables = [
        ("Means over folds ± std over folds; windows of held-out patients", report.plain_table(summary["accuracy"])),
        ("Simulated chips, means over folds", report.plain_table(summary["chips"])),
    ]
    text = "\n\n".join(f"{title}\n{report.text(table)}" for title, table in tables)
    print(f"\n{text}")
    (out / "crossval.txt").write_text(text + "\n", encoding="utf-8")
    (out / "crossval.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    return summary


def _accuracy(found: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for position, first in enumerate(found[0]["accuracy"]):
        row: Row = {"name": first["name"]}
        for label, key in (("acc", "acc"), ("F2", "f2"), ("missed VA", "missed_va"), ("vote acc", "vote_acc")):
            values = [run["accuracy"][position].get(key, np.nan) for run in found]
            row[label] = f"{np.nanmean(values):.4f} ± {np.nanstd(values, ddof=1):.4f}"
        rows.append(row)
    return rows


def _chips(found: list[dict[str, Any]]) -> list[Row]:
    rows = []
    for position, first in enumerate(found[0]["chips"]):
        same = [run["chips"][position] for run in found]
        row: Row = {"name": first["name"], "sigma": first["sigma"], "chips a fold": first["chips"]}
        row["acc mean"] = float(np.mean([r["acc"]["mean"] for r in same]))
        row["acc std over chips"] = float(np.mean([r["acc"]["std"] for r in same]))
        row["acc KPP 5 %"] = float(np.mean([r["acc"]["kpp5"]["value"] for r in same]))
        row["worst chip of all folds"] = float(np.min([r["acc"]["worst"] for r in same]))
        row["missed VA mean"] = float(np.mean([r["missed_va"]["mean"] for r in same]))
        rows.append(row)
    return rows


def _value(args: list[str], name: str, default: str) -> str:
    return next((word.split("=", 1)[1] for word in args if word.startswith(f"{name}=")), default)
