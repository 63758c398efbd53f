"""Collections of loaders."""

from lightning_cim._data import CachedLoader
from lightning_cim.evaluation.loaders import cached


def test_collections_keep_their_shape():
    found = cached({"a": range(3), "b": [range(3), range(3)]})
    assert isinstance(found["a"], CachedLoader)
    assert len(found["b"]) == 2
