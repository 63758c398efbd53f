"""The arrangements under test: each callback, combinations and the strategy, as keyword arguments of a Trainer."""

import importlib

import lightning_cim as cim
from lightning_cim.callbacks.crossbar import Crossbar
from tests.helpers.boring import data

SIGMA = cim.Gaussian(sigma=0.1)


def injection(flavour):
    return {"callbacks": [cim.VariationInjection(SIGMA)]}


def held_validation(flavour):
    return {"callbacks": [cim.VariationInjection(SIGMA, validation_chips=2, redraw_every_n_steps=2, warmup_steps=3)]}


def precision(flavour):
    return {"callbacks": [cim.MixedPrecision(weight_bits=4, activation_bits=6)]}


def magnitude(flavour):
    return {"callbacks": [cim.StructuredSparsity("2:4")]}


def gradual(flavour):
    return {"callbacks": [cim.StructuredSparsity("balanced", 0.6, method="gradual", end_epoch=2)]}


def sr_ste(flavour):
    return {"callbacks": [cim.StructuredSparsity("2:4", method="sr-ste")]}


def monte_carlo(flavour):
    return {"callbacks": [cim.MonteCarloEvaluation(SIGMA, chips=2)]}


def ovf(flavour):
    return {"callbacks": [cim.NegativeFeedback(SIGMA, mode="ovf", beta=0.1)]}


def irs(flavour):
    return {"callbacks": [cim.NegativeFeedback(SIGMA, mode="irs", beta=0.1, stages=["norm"], warmup_steps=3)]}


def correctnet(flavour):
    return {"callbacks": [cim.CorrectNetReg(strength=0.01)]}


def trice(flavour):
    return {"callbacks": [cim.RightCensoredTraining(SIGMA, chips=3, monitor="val/loss")]}


def worst_case(flavour):
    return {"callbacks": [cim.WorstCaseSearch(bound=0.1, steps=2, every_n_epochs=1, find_on=data())]}


def write_verify(flavour):
    return {"callbacks": [cim.SelectiveWriteVerify(SIGMA, verify_fraction=0.5, granularity=0.5, chips=2)]}


def crossbar(flavour):
    circuit = {"rows": 5, "cols": 2, "adc_bits": 6, "dac_bits": 6, "output_noise": 0.02}
    return {"callbacks": [Crossbar(**circuit, wire_resistance=1.0, g_max=25e-6), *injection(flavour)["callbacks"]]}


def everything(flavour):
    return {
        "callbacks": [
            cim.MonteCarloEvaluation(SIGMA, chips=2),
            cim.VariationInjection(SIGMA),
            cim.MixedPrecision(weight_bits={"conv": 8, "*": 4}, activation_bits=6),
            cim.StructuredSparsity("2:4", start_epoch=1),
        ]
    }


def strategy(flavour):
    return {"strategy": cim_strategy(flavour, SIGMA)}


def strategy_and_monte_carlo(flavour):
    return {**strategy(flavour), **monte_carlo(flavour)}


ALL = [
    injection,
    held_validation,
    precision,
    magnitude,
    gradual,
    sr_ste,
    monte_carlo,
    ovf,
    irs,
    correctnet,
    trice,
    worst_case,
    write_verify,
    crossbar,
    everything,
    strategy,
    strategy_and_monte_carlo,
]
"""Everything that may run beside a user's module."""

NOISY = [injection, held_validation, irs, everything, strategy]
"""Those that draw a training chip for each batch."""


def no_variation(flavour):
    return {"callbacks": [cim.VariationInjection(cim.Gaussian(sigma=0.0))]}


def no_variation_while_held(flavour):
    return {"callbacks": [cim.VariationInjection(cim.RightCensoredGaussian(sigma=0.0), validation_chips=1)]}


def strategy_without_variation(flavour):
    return {"strategy": cim_strategy(flavour, cim.Gaussian(sigma=0.0))}


def no_sparsity(flavour):
    return {"callbacks": [cim.StructuredSparsity("balanced", 0.0), *no_variation(flavour)["callbacks"]]}


def only_evaluation(flavour):
    return {"callbacks": [*monte_carlo(flavour)["callbacks"], *no_variation(flavour)["callbacks"]]}


def no_penalty(flavour):
    return {"callbacks": [cim.CorrectNetReg(strength=0.0)]}


def ideal_crossbar(flavour):
    return {"callbacks": [Crossbar()]}


INVISIBLE = [
    no_variation,
    no_variation_while_held,
    strategy_without_variation,
    no_sparsity,
    monte_carlo,
    only_evaluation,
    no_penalty,
    worst_case,
    write_verify,
    ideal_crossbar,
]
"""Those that must not change a run by one bit."""


def cim_strategy(flavour, variation, name="CIMStrategy", **kwargs):
    """The strategy over the flavour's own classes."""
    strategies = importlib.import_module("lightning_cim.strategies")
    return strategies.strategy_class(name, flavour)(variation=variation, **kwargs)
