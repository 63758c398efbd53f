"""Evaluators for tests of searches: quick, spied upon, and picklable."""

import math
import zlib

import numpy as np

from lightning_cim.codesign import Outcome, Slot, Space

SPACE = Space(
    (
        Slot("channels", (16, 32, 64, 128)),
        Slot("kernel", (1, 3, 5)),
        Slot("adc_bits", (4, 5, 6, 7)),
        Slot("device", ("rram", "fefet")),
    ),
    "toy",
)


class ToyEvaluator:
    """Accuracy grows with channels and kernel, energy and area with everything."""

    version = "toy-1"

    def __init__(self):
        self.calls = []

    def cost(self, design):
        size = design["channels"] * design["kernel"] * 2.0 ** (design["adc_bits"] - 4)
        return {"energy_pj": 1e4 * size, "latency_ns": 10.0 * size, "area_mm2": size / 40}

    def evaluate(self, design, seed):
        self.calls.append((tuple(design.values()), seed))
        accuracy = 0.5 + 0.05 * math.log2(design["channels"]) + 0.01 * design["kernel"]
        accuracy -= {"rram": 0.02, "fefet": 0.0}[design["device"]]
        return Outcome({"acc_mean": accuracy, "acc_kpp": accuracy - 0.05, **self.cost(design)})

    def final(self, design, seed):
        return self.evaluate(design, seed).metrics


class NoiseEvaluator(ToyEvaluator):
    """Every design is equally good; what differs is chance, and the final chance is another one."""

    version = "noise-1"

    def evaluate(self, design, seed):
        return Outcome({"acc_mean": self._drawn(design, seed, "search"), **self.cost(design)})

    def final(self, design, seed):
        return {"acc_mean": self._drawn(design, seed, "final"), **self.cost(design)}

    @staticmethod
    def _drawn(design, seed, stream):
        key = zlib.crc32(repr((sorted(design.items()), seed, stream)).encode())
        return 0.8 + 0.02 * np.random.default_rng(key).standard_normal()


class BrokenEvaluator(ToyEvaluator):
    """Breaks down wherever the device is rram."""

    version = "broken-1"

    def evaluate(self, design, seed):
        if design["device"] == "rram":
            raise RuntimeError("out of memory\nand more")
        return super().evaluate(design, seed)
