"""Tables and picture of the ablation: cells, paired effects with their intervals, and what explains them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recipes._tables import Cells
from recipes.brain_mri.ablation_job import LESIONS, MAPS, Baseline, Found, Job, Settings
from recipes.brain_mri.bootstrap import Difference, Interval, interval, paired_bootstrap

Values = NDArray[np.float64]
Setting = tuple[str, str, str]
"""Contrast, kind of lesion, network."""
Recipe = tuple[str, str, str]
"""Inversion ("off" or "on"), loss of training, map."""

SCORES_NOTE = (
    "Per cent: mean over seeds and test volumes, with its 95 % bootstrap interval, for which both are drawn. AUPRC:"
    " exact, over all voxels of a volume. Dice: at the threshold of best Dice on validation volumes, components of up"
    " to 7 voxels dropped. Best Dice: an oracle, each volume at its own best threshold. The map 'intensity' is the"
    " image itself: no network."
)
EFFECTS_NOTE = (
    "Points of each score, the same volumes and seeds paired, everything else equal; * marks a 95 % interval without 0."
    " Of many intervals without correction some exclude 0 by chance."
)
RATIO_NOTE = "AUPRC with inversion divided by AUPRC without: of means over seeds and volumes, and of each seed's mean."
REASONS_NOTE = (
    "Means over seeds and test volumes. AIR: intensity of lesions over normal brain, as the network sees it. Brightness"
    " and pattern: what SSIM of reconstruction and image loses by each, 1 - luminance and 1 - contrast x structure,"
    " in lesions and in normal brain. A map tells a lesion if its level there is above the 99th percentile of normal"
    " brain; ratio: the one over the other."
)
PICTURE_NOTE = "Bars: 95 % bootstrap intervals over seeds and volumes. Dotted: the image itself as the map."
COLOURS = {"l1": "#1f4e79", "fq": "#c0392b"}


def headline(found: Found) -> str:
    """One line about a finished job."""
    cells = (
        f"{lesion} " + ", ".join(f"{kind} {100 * np.nanmean(row['auprc']):.1f}" for kind, row in of["maps"].items())
        for lesion, of in found["lesions"].items()
    )
    return f"AUPRC % of maps: {'; '.join(cells)}; {found['train_cpu_seconds']:.0f} CPU s to train"


@dataclass(frozen=True)
class Table:
    """Everything that was measured.

    Attributes:
        results: By job.
        baselines: Of the image itself as the map, by contrast and kind of lesion.
    """

    results: Mapping[Job, Found]
    baselines: Mapping[str, Baseline]

    @property
    def seeds(self) -> list[int]:
        """Of trainings."""
        return list(dict.fromkeys(job.seed for job in self.results))

    @property
    def settings(self) -> list[Setting]:
        """Contrast, lesion and network, in order."""
        pairs = dict.fromkeys((job.contrast, job.arch) for job in self.results)
        return [(contrast, lesion, arch) for contrast, arch in pairs for lesion in LESIONS]

    @property
    def recipes(self) -> list[Recipe]:
        """Inversion, loss and map, in order."""
        pairs = dict.fromkeys((job.air, job.loss) for job in self.results)
        return [(air, loss, kind) for air, loss in pairs for kind in MAPS]

    def values(self, setting: Setting, recipe: Recipe, score: str) -> Values:
        """(seeds, volumes) of one cell."""
        return np.array([of["maps"][recipe[2]][score] for of in self._of(setting, recipe)], np.float64)

    def about(self, settings: Settings) -> str:
        """Data and training in one paragraph."""
        seconds = [found["train_cpu_seconds"] for found in self.results.values()]
        epochs = {job.arch: settings.epochs_of(job.arch) for job in self.results}
        return (
            f"{settings.source} volumes of {settings.size} x {settings.size} pixels, noise {settings.noise:g};"
            f" {settings.train} healthy subjects to train on, {settings.val} volumes for each threshold,"
            f" {settings.test} test volumes of each kind of lesion (data seed {settings.data_seed}). Epochs:"
            f" {', '.join(f'{arch} {count}' for arch, count in epochs.items())}; batches of"
            f" {settings.batch_size}, training seeds {', '.join(map(str, self.seeds))}. Epochs were chosen on healthy"
            f" volumes, thresholds on validation volumes. {len(seconds)} trainings of {min(seconds):.0f} to"
            f" {max(seconds):.0f} CPU seconds."
        )

    def all(self) -> Iterator[tuple[str, str, Cells]]:
        """Heading, note and cells of every table."""
        for setting in self.settings:
            yield " · ".join(setting), SCORES_NOTE, self.score_table(setting)
        for factor, (before, after) in _FACTORS.items():
            cells = self.effect_table(factor, before, after)
            if cells[1]:
                yield f"Effect of {factor}: {after} minus {before}", EFFECTS_NOTE, cells
        if self.ratio_table()[1]:
            yield "What inversion does to AUPRC", RATIO_NOTE, self.ratio_table()
        yield "What explains it", REASONS_NOTE, self.reason_table()

    def score_table(self, setting: Setting) -> Cells:
        """One line a recipe, and one for the image itself."""
        body = []
        for recipe in self.recipes:
            spans = (interval(self.values(setting, recipe, name)) for name in _SHOWN)
            body.append([*recipe, *map(_span, spans)])
        plain = self.baselines[setting[0]][setting[1]]
        body.append(["-", "-", "intensity", *(_span(interval(plain[name])) for name in _SHOWN)])
        return ["AIR", "trained", "map", *_SHOWN.values()], body

    def effect_table(self, factor: str, before: str, after: str) -> Cells:
        """Paired differences for one factor, in every setting and for every choice of the others."""
        body = []
        for setting in self.settings:
            for first, second in self._pairs(factor, before, after):
                rest = [value for name, value in zip(_FACTORS, first, strict=True) if name != factor]
                effects = (self._difference(setting, first, second, name) for name in _SHOWN)
                body.append([*setting, *rest, *map(_signed, effects)])
        others = [_HEADERS[name] for name in _FACTORS if name != factor]
        return ["contrast", "lesions", "network", *others, *_SHOWN.values()], body

    def ratio_table(self) -> Cells:
        """AUPRC with inversion over AUPRC without."""
        body = []
        for setting in self.settings:
            for off, on in self._pairs("inversion", "off", "on"):
                without, with_it = (self.values(setting, recipe, "auprc") for recipe in (off, on))
                seeds = np.nanmean(with_it, axis=1) / np.nanmean(without, axis=1)
                ratio = np.nanmean(with_it) / np.nanmean(without)
                body.append([*setting, *off[1:], f"{ratio:.2f}", ", ".join(f"{each:.2f}" for each in seeds)])
        return ["contrast", "lesions", "network", "trained", "map", "on / off", "by seed"], body

    def reason_table(self) -> Cells:
        """Where lesions and normal brain stand in each map, and in the two parts of SSIM."""
        parts = ("air_seen", "brightness_lesion", "brightness_normal", "pattern_lesion", "pattern_normal")
        body = []
        for setting in self.settings:
            for air, loss, _ in self.recipes[:: len(MAPS)]:
                found = self._of(setting, (air, loss, MAPS[0]))
                line = [_plain(np.mean([of[name] for of in found if of[name] is not None])) for name in parts]
                for kind in MAPS:
                    rows = [of["maps"][kind] for of in found]
                    lesion, top = (
                        np.mean([row[name] for row in rows]) for name in ("level_lesion", "level_normal_p99")
                    )
                    line.append(_plain(lesion / top))
                body.append([*setting, air, loss, *line])
        titles = ["AIR seen", "brightness, lesion", "brightness, normal", "pattern, lesion", "pattern, normal"]
        ratios = [f"{kind} level ratio" for kind in MAPS]
        return ["contrast", "lesions", "network", "AIR", "trained", *titles, *ratios], body

    def plain(self) -> Found:
        """Means, intervals and effects as JSON, and the jobs' own values are in their files."""
        cells = [
            {**_named(setting, recipe), name: list(interval(self.values(setting, recipe, name)))}
            for setting, recipe, name in product(self.settings, self.recipes, _SHOWN)
        ]
        effects = [
            {"effect": factor, "score": name, "difference": list(self._difference(setting, first, second, name)),
             **_named(setting, first)}
            for factor, (before, after) in _FACTORS.items()
            for setting in self.settings
            for first, second in self._pairs(factor, before, after)
            for name in _SHOWN
        ]  # fmt: skip
        return {"cells": cells, "effects": effects}

    def picture(self) -> Figure:
        """AUPRC of every cell: one panel a contrast and lesion, one group a network, inversion and training."""
        places = list(dict.fromkeys((contrast, lesion) for contrast, lesion, _ in self.settings))
        archs = list(dict.fromkeys(arch for _, _, arch in self.settings))
        groups = [(arch, air, loss) for arch in archs for air, loss, _ in self.recipes[:: len(MAPS)]]
        height = 1.0 + 0.3 * len(groups)
        figure = Figure(figsize=(3.2 * len(places), height), layout="constrained")
        axes = figure.subplots(1, len(places), sharey=True, squeeze=False)[0]
        for ax, (contrast, lesion) in zip(axes, places, strict=True):
            for at, (arch, air, loss) in enumerate(groups):
                for shift, kind in zip((-0.14, 0.14), MAPS, strict=True):
                    values = self.values((contrast, lesion, arch), (air, loss, kind), "auprc")
                    mean, low, high = (100 * value for value in interval(values))
                    ax.plot([low, high], [at + shift] * 2, color=COLOURS[kind], linewidth=2)
                    ax.plot(
                        mean, at + shift, "o", color=COLOURS[kind], markersize=5, label=None if at else f"{kind} map"
                    )
            plain = self.baselines[contrast][lesion]["auprc"]
            ax.axvline(100 * interval(plain, draws=0).mean, color="0.5", linestyle=":")
            ax.set_title(f"{contrast}, {lesion}: AUPRC, %")
            ax.set_xlim(left=0)
            ax.grid(alpha=0.25, axis="x")
        axes[0].set_yticks(range(len(groups)), [f"{arch}, AIR {air}, trained {loss}" for arch, air, loss in groups])
        axes[0].invert_yaxis()
        axes[0].legend(frameon=False, fontsize=7)
        return figure

    def _of(self, setting: Setting, recipe: Recipe) -> list[Found]:
        """What each seed's job found on one kind of lesion."""
        contrast, lesion, arch = setting
        wanted = (contrast, arch, *recipe[:2])
        jobs = {
            job.seed: of for job, of in self.results.items() if (job.contrast, job.arch, job.air, job.loss) == wanted
        }
        return [jobs[seed]["lesions"][lesion] for seed in self.seeds]

    def _pairs(self, factor: str, before: str, after: str) -> list[tuple[Recipe, Recipe]]:
        """Recipes that differ in one factor alone."""
        place = list(_FACTORS).index(factor)
        pairs = []
        for recipe in self.recipes:
            other = (*recipe[:place], after, *recipe[place + 1 :])
            if recipe[place] == before and other in self.recipes:
                pairs.append((recipe, other))
        return pairs

    def _difference(self, setting: Setting, before: Recipe, after: Recipe, score: str) -> Difference:
        return paired_bootstrap(self.values(setting, after, score), self.values(setting, before, score))


_FACTORS = {"inversion": ("off", "on"), "training": ("l1", "fq"), "map": ("l1", "fq")}
"""Of a recipe, in its order: from what to what."""
_HEADERS = {"inversion": "AIR", "training": "trained", "map": "map"}
_SHOWN = {"auprc": "AUPRC", "dice": "Dice", "best_dice": "best Dice"}


def _named(setting: Setting, recipe: Recipe) -> dict[str, str]:
    names = ("contrast", "lesions", "network", "air", "loss", "map")
    return dict(zip(names, (*setting, *recipe), strict=True))


def _span(found: Interval) -> str:
    mean, low, high = (100 * value for value in found)
    return f"{mean:.1f} [{low:.1f}, {high:.1f}]"


def _signed(found: Difference) -> str:
    mean, low, high = (100 * value for value in found)
    return f"{mean:+.1f} [{low:+.1f}, {high:+.1f}]" + (" *" if found.is_clear else "")


def _plain(value: Sequence[float] | float | np.floating) -> str:
    return f"{float(value):.3g}"  # type: ignore[arg-type]
