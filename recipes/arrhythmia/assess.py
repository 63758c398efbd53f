"""The tables of the recipe: accuracy beside the baselines, chips, latency, hardware and the integer export."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import DataLoader

import lightning_cim as cim
from recipes.arrhythmia import baselines, metrics, simulator
from recipes.arrhythmia.datamodule import ECGData, in_order
from recipes.arrhythmia.hardware import HardwareReport, hardware_report
from recipes.arrhythmia.integer import ActivationQuantiser, QuantisedWeight, agreement, export_integer
from recipes.arrhythmia.model import ChipNet
from recipes.arrhythmia.records import FS
from recipes.arrhythmia.stages import Trained
from recipes.arrhythmia.voting import VoteGroups, binomial_vote, detection_latency, group_votes, latency_summary
from recipes.arrhythmia.windows import Windows, cut

Row = dict[str, Any]
VOTE = 6


def accuracy_rows(nets: list[Trained], data: ECGData) -> list[Row]:
    """One row for each baseline and each net on the test patients, windows and votes.

    Rules are fitted on training windows at their most accurate threshold; the logistic regression is shown at
    probability 0.5 and, like the nets, at the threshold with the best F2 on the validation patients.
    """
    train, validation, test = data.windows("train"), data.windows("val"), data.windows("test")
    groups = group_votes(test, VOTE)
    decisions: dict[str, NDArray[np.bool_]] = {}
    for name, decision in baselines.baseline_decisions(train, test).items():
        decisions["LR-5, p > 0.5" if name == "logistic" else f"rule: {name}"] = decision
    logistic = baselines.fit_logistic(baselines.features(train.x), train.y)
    threshold = metrics.choose_threshold(validation.y, logistic.probability(baselines.features(validation.x)))
    decisions["LR-5, tuned"] = logistic.probability(baselines.features(test.x)) >= threshold
    for net in nets:
        decisions[net.name] = net.decision(test)
    return [_accuracy_row(name, decision, test, groups) for name, decision in decisions.items()]


def _accuracy_row(name: str, decision: NDArray[np.bool_], test: Windows, groups: VoteGroups) -> Row:
    window = metrics.summary(test.y, decision, test.patient, test.x.shape[1] / FS)
    row: Row = {"name": name, **window}
    if len(groups):
        vote = metrics.confusion(groups.y, groups.k_of_n(decision))
        row |= {"vote_acc": vote.acc, "vote_f2": vote.f2, "vote_missed_va": vote.missed_va}
        row["vote_if_independent"] = binomial_vote(window["acc"], VOTE)
    row["rhythm_acc"] = metrics.rhythm_accuracy(test.y, decision, test.rhythm)
    row["patient_f2"] = metrics.patient_f2(test.y, decision, test.patient)
    return row


def chip_loader(data: ECGData, strips_each: int) -> DataLoader[Any]:
    """Test windows that the chips run on: the first strips of every test patient, so that nobody is left out."""
    windows = data.windows("test")
    chosen: list[int] = []
    for patient in np.unique(windows.patient):
        chosen += np.unique(windows.strip[windows.patient == patient])[:strips_each].tolist()
    return in_order(windows.subset(np.isin(windows.strip, chosen)), 512)


def chip_results(
    nets: list[Trained], loader: DataLoader[Any], sigmas: list[float], chips: int, workers: int, out: Path
) -> dict[tuple[str, float], cim.ChipResult]:
    """Every net on the same chips at each sigma; chips are on disk as soon as they are done."""
    results = {}
    for sigma in sigmas:
        for net in nets:
            print(f"{chips} chips at sigma {sigma:g}: {net.name}", flush=True)
            results[net.name, sigma] = cim.evaluate_chips(
                net.silent_trainer(),
                net.module,
                loader,
                variation=cim.Gaussian(sigma),
                chips=chips,
                workers=workers,
                k=5,
                csv=out / "chips" / f"{net.name}-sigma{sigma:g}.csv",
            )
    return results


def chip_rows(results: dict[tuple[str, float], cim.ChipResult]) -> list[Row]:
    """Mean, std, 1st and 5th percentile with intervals, and the missed-VA rate, of every net and sigma."""
    rows = []
    for (name, sigma), result in results.items():
        row: Row = {"name": name, "sigma": sigma, "chips": len(result.chips)}
        for metric in ("acc", "f2", "missed_va"):
            key = f"test/{metric}"
            row[metric] = {
                "mean": result.mean(key),
                "std": result.std(key),
                "worst": result.worst(key),
                "kpp1": vars(result.kpp(key, 1)),
                "kpp5": vars(result.kpp(key, 5)),
            }
        rows.append(row)
    return rows


def latency_rows(net: Trained, data: ECGData, patients: int) -> list[Row]:
    """Seconds from a simulated onset to the alarm, with and without early exit; simulated data only."""
    test_patients = range(patients)
    rows = []
    for early in (False, True):
        seconds = []
        for patient in test_patients:
            strip = simulator.onset_strip(data.seed, patient, ("VT", "VFb")[patient % 2], difficulty=data.difficulty)
            windows = cut([strip], data.window, data.window, data.normalise)
            assert strip.onset is not None
            called = net.decision(windows)
            seconds.append(detection_latency(windows.start, called, strip.onset, data.window, early_exit=early))
        rows.append({"decision": "3 of the last 6" if early else "blocks of 6", **latency_summary(seconds)})
    return rows


def hardware_table(net: Trained, window: int) -> HardwareReport:
    """What one window costs on the digital accelerator of specs: MACs, bits, cycles, latency, energy."""
    sparse, precise = net.hardware
    integers = precise.integers(net.module, sparse.masks)
    bits = {name.removesuffix(".weight"): number for name, (_, _, number) in integers.items()}
    density = {name.removesuffix(".weight"): float(mask.float().mean()) for name, mask in sparse.masks.items()}
    pattern = {}
    if ":" in sparse.pattern:
        n, m = map(int, sparse.pattern.split(":"))
        pattern = dict.fromkeys(density, (n, m))
    return hardware_report(net.module, (1, window), bits, density, pattern)


def integer_check(net: Trained, windows: Windows, path: Path) -> Row:
    """Export the net to integers, run them and compare with the fake-quantised network in float64."""
    sparse, precise = net.hardware
    integers = {
        name.removeprefix("net.").removesuffix(".weight"): QuantisedWeight(levels.to(torch.int8), step.flatten(), bits)
        for name, (levels, step, bits) in precise.integers(net.module, sparse.masks).items()
    }
    inputs = {
        name.removeprefix("net."): ActivationQuantiser(quantiser.scale, quantiser.bits, quantiser.signed)
        for name, quantiser in precise.activations.items()
    }
    exported = export_integer(net.module.net, integers, inputs, windows.x.shape[1])  # type: ignore[arg-type]
    exported.save(path)
    x = torch.from_numpy(windows.x).unsqueeze(1).double()
    with torch.no_grad():
        reference = _fake_quantised(net.module.net, integers, inputs)(x)  # type: ignore[arg-type]
    return {**agreement(exported.run(exported.quantise(x.numpy())), reference.numpy()), "windows": len(windows)}


def _fake_quantised(
    net: ChipNet, weights: dict[str, QuantisedWeight], inputs: dict[str, ActivationQuantiser]
) -> torch.nn.Module:
    """The trained net in float64 with its quantised weights and quantisers written out as hooks."""
    twin = copy.deepcopy(net).double().eval()
    for name, weight in weights.items():
        layer = twin.get_submodule(name)
        shape = (-1, *[1] * (weight.integers.ndim - 1))
        layer.weight.data = weight.integers.double() * weight.scale.double().view(shape)  # type: ignore[operator, union-attr]
        quantiser = inputs[name]

        def hook(_: Any, args: tuple[torch.Tensor], q: ActivationQuantiser = quantiser) -> torch.Tensor:
            return (args[0] / q.scale).round().clamp(q.low, q.high) * q.scale

        layer.register_forward_pre_hook(hook)
    return twin
