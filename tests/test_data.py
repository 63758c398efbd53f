"""Batches that are read once and passed over by every chip, and loaders from whatever a user has."""

import importlib

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

from lightning_cim._data import CachedLoader, is_defined, own_loaders, whole
from tests.helpers.boring import FLAVOURS


class Counted:
    """A loader that counts how often it is read."""

    def __init__(self, batches=3):
        self.reads, self.batches = 0, batches

    def __iter__(self):
        self.reads += 1
        return iter([torch.full((2, 2), float(i)) for i in range(self.batches)])

    def __len__(self):
        return self.batches


def passes(loader, times):
    return [[batch.clone() for batch in loader] for _ in range(times)]


def test_a_loader_is_read_once():
    source = Counted()
    first, second, third = passes(CachedLoader(source), 3)
    assert source.reads == 1
    assert len(CachedLoader(source)) == 3
    for batches in (second, third):
        assert all(torch.equal(a, b) for a, b in zip(first, batches, strict=True))


@pytest.mark.parametrize(("budget", "reads"), [(48, 1), (47, 3), (0, 3)])
def test_what_does_not_fit_is_read_again(budget, reads):
    source = Counted()  # three batches of 16 bytes
    loader = CachedLoader(source, budget)
    assert all(len(batches) == 3 for batches in passes(loader, 3))
    assert source.reads == reads


@pytest.mark.parametrize("inference", [False, True])
def test_batches_changed_in_place_are_read_anew(inference):
    source = Counted()
    loader = CachedLoader(source)
    with torch.inference_mode(inference):
        for _ in range(3):
            for index, batch in enumerate(loader):
                assert torch.equal(batch, torch.full((2, 2), float(index)))
                batch.add_(1.0)
    assert source.reads == 3


def test_an_abandoned_pass_is_not_taken_for_a_whole_one():
    source = Counted()
    loader = CachedLoader(source)
    next(iter(loader))
    assert [float(batch[0, 0]) for batch in loader] == [0.0, 1.0, 2.0]
    assert len(list(loader)) == 3
    assert source.reads == 1


def test_nested_batches():
    batches = [{"x": torch.ones(2), "y": (torch.zeros(1), "name", 3)}]
    loader = CachedLoader(batches)
    list(loader)
    (again,) = list(loader)
    assert again["y"][1:] == ("name", 3)
    again["y"][0].add_(1.0)
    assert len(loader._batches) == 1
    assert len(list(loader)) == 1
    assert loader._batches == []
    assert not loader.is_complete


def test_a_ranks_share_is_made_whole_again():
    data = TensorDataset(torch.arange(10))
    sampler = DistributedSampler(data, num_replicas=2, rank=1, shuffle=False)
    share = DataLoader(data, batch_size=3, sampler=sampler)
    assert torch.cat([batch[0] for batch in whole(share)]).tolist() == list(range(10))
    plain = DataLoader(data, batch_size=3)
    assert whole(plain) is plain


def test_a_pass_that_stops_early_is_cached_and_a_longer_one_goes_on():
    reads = []

    class Source:
        def __iter__(self):
            for value in range(4):
                reads.append(value)
                yield torch.tensor([value])

    loader = CachedLoader(Source())
    assert [int(batch) for batch, _ in zip(loader, range(2), strict=False)][:2] == [0, 1]
    first = list(reads)
    assert [int(batch) for batch, _ in zip(loader, range(2), strict=False)][:2] == [0, 1]
    assert reads == first
    assert not loader.is_complete
    assert [int(batch) for batch in loader] == [0, 1, 2, 3]
    assert sorted(reads) == [0, 1, 2, 3]
    assert loader.is_complete


def test_images_are_laid_out_channels_last_and_nothing_else_changes():
    batch = {"image": torch.randn(2, 3, 4, 4), "label": torch.tensor([0, 1]), "name": ["a", "b"]}
    loader = CachedLoader([batch], channels_last=True)
    (found,) = list(loader)
    assert found["image"].is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found["image"], batch["image"])
    assert found["label"] is batch["label"]
    assert found["name"] == ["a", "b"]
    loader.keep_layout()
    assert next(iter(loader))["image"] is batch["image"]


def test_what_was_forgotten_is_read_again():
    source = Counted()
    loader = CachedLoader(source)
    list(loader)
    loader.forget()
    assert not loader.is_complete
    assert len(list(loader)) == 3
    assert source.reads == 2


@pytest.mark.parametrize("flavour", FLAVOURS)
class TestLoadersOfADatamodule:
    def make(self, flavour):
        class Data(importlib.import_module(flavour).LightningDataModule):
            calls = ()

            def prepare_data(self):
                self.calls += ("prepare",)

            def setup(self, stage):
                self.calls += (stage,)

            def train_dataloader(self):
                self.calls += ("train",)
                return [1]

        return Data()

    def test_only_what_the_user_wrote_is_defined(self, flavour):
        data = self.make(flavour)
        assert is_defined(data, "train_dataloader")
        assert not is_defined(data, "val_dataloader")
        assert not is_defined(data, "nothing")
        assert not is_defined(None, "train_dataloader")
        type(data).test_dataloader = importlib.import_module(flavour).LightningDataModule.test_dataloader
        assert not is_defined(data, "test_dataloader")
        data.val_dataloader = lambda: [2]
        assert is_defined(data, "val_dataloader")

    def test_loaders_from_datasets_are_defined(self, flavour):
        base = importlib.import_module(flavour).LightningDataModule
        data = base.from_datasets(train_dataset=TensorDataset(torch.ones(4, 2)), batch_size=2)
        assert is_defined(data, "train_dataloader")
        [loader] = own_loaders(data, "fit", "train_dataloader")
        assert len(loader) == 2

    def test_data_is_prepared_once_for_all_loaders(self, flavour):
        data = self.make(flavour)
        assert own_loaders(data, "fit", "val_dataloader", "train_dataloader") == [None, [1]]
        assert data.calls == ("prepare", "fit", "train")

    def test_nothing_is_prepared_for_no_loader(self, flavour):
        data = self.make(flavour)
        assert own_loaders(data, "test", "test_dataloader") == [None]
        assert data.calls == ()
