"""What the two processes and the single one they are compared with have in common."""

import lightning_cim as cim
from tests.helpers.boring import data

SIGMA = cim.Gaussian(sigma=0.1)
CHIPS = 5  # odd, so that the ranks have different shares
TEST = data(batches=3, batch_size=5, seed=4)
WITH_PRECISION = {"weight_bits": 4, "activation_bits": 6}


def evaluated(trainer, model, chips=CHIPS, csv=None):
    """Metrics by name, one value a chip."""
    result = cim.evaluate_chips(trainer, model, TEST, variation=SIGMA, chips=chips, k=90, csv=csv, progress=False)
    return {name: list(result.of(name)) for name in result.metrics}


def only_monte_carlo():
    return cim.MonteCarloEvaluation(SIGMA, chips=3, k=90)
