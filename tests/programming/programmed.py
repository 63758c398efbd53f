"""The small network of ``toys``, programmed by its scripted sensitivity."""

from lightning_cim.programming.program import program
from tests.evaluation.toys import dataset
from tests.programming.toys import VARIATION, batches, scripted

QUIET = {"progress": False, "chips": 3}
VALIDATION = dataset(96, seed=1)


def programmed(model, **options):
    settings = {"sensitivity": scripted(model), "validation": batches(seed=1), **QUIET, **options}
    return program(model, batches(), settings.pop("variation", VARIATION), **settings)
