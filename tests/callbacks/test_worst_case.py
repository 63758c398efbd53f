"""What the callback logs, against the search by hand; and that the run does not notice it."""

import copy
import importlib

import pytest
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from torch.utils.data import DataLoader, SubsetRandomSampler, TensorDataset, default_collate

import lightning_cim as cim
from lightning_cim.callbacks.loop_batches import fresh
from lightning_cim.callbacks.worst_case import WorstCaseSearch
from lightning_cim.chip.scope import scope_of
from lightning_cim.evaluation.worst_case import worst_case
from tests.evaluation.toys import Classifier, Data, dataset, loader, trainer
from tests.helpers.boring import FLAVOURS, data, fit, make, make_trainer
from tests.helpers.checks import check_clean_after_fit, check_invisible
from tests.helpers.versions import callback_of

TEST, VAL = data(3, seed=4), data(2, seed=2)


def searched(flavour):
    return {"callbacks": [WorstCaseSearch(0.2, steps=2, every_n_epochs=1)]}


@pytest.mark.parametrize("flavour", FLAVOURS)
@pytest.mark.parametrize("options", [{}, {"method": "lagrange", "steps": 1, "rounds": 2}])
def test_a_test_loop_logs_what_the_function_finds(flavour, options):
    model = make(flavour)
    search = WorstCaseSearch(0.2, find_on=VAL, **options)
    before = copy.deepcopy(model.state_dict())
    (logged,) = make_trainer(flavour, callbacks=[search]).test(model, TEST, verbose=False)
    expected = worst_case(model, VAL, 0.2, evaluate_on=TEST, **{**options, "progress": False})
    assert logged["cim/acc_worst_case"] == pytest.approx(expected.worst)
    assert search.result.held_out == expected.held_out
    assert search.result.history == expected.history
    assert search.result.clean == pytest.approx(logged["test/acc"])
    assert search.result.found_on.found < search.result.found_on.clean
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert scope_of(model).chain == ()


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_run_with_it_is_bit_identical(flavour):
    check_invisible(searched, flavour)
    check_clean_after_fit(searched, flavour)


def test_validation_searches_on_the_training_data_every_n_epochs():
    search = WorstCaseSearch(0.2, steps=2, every_n_epochs=2)
    seen = []

    class Watch(importlib.import_module(FLAVOURS[0]).Callback):
        def on_validation_end(self, trainer, pl_module):
            seen.append(search.result)

    train = data(seed=1, shuffle=True)
    found = fit(FLAVOURS[0], lambda _: {"callbacks": [search, Watch()]}, train=train, val=VAL, max_epochs=3)
    assert seen[0] is None  # the sanity check
    assert seen[1] is None
    assert seen[2] is seen[3] is not None
    assert (search.result.found_on.count, search.result.held_out.count) == (16, 8)
    assert "cim/acc_worst_case" in found.trainer.callback_metrics
    # A test after the fit finds it on what the fit validated on.
    found.trainer.test(found.model, TEST, verbose=False)
    assert (search.result.found_on.count, search.result.held_out.count) == (8, 12)


@pytest.mark.parametrize("find_on", ["val", "train"])
def test_data_come_from_the_datamodule(find_on):
    search = WorstCaseSearch(0.2, steps=2, find_on=find_on)
    trainer(callbacks=[search]).test(Classifier(), datamodule=Data(), verbose=False)
    expected = worst_case(Classifier(), dataset(), 0.2, steps=2, evaluate_on=dataset(), progress=False)
    assert search.result.held_out.found == pytest.approx(expected.held_out.found)


def test_data_that_are_split_at_random_do_not_touch_the_runs_random_state():
    class Split(Data):
        def setup(self, stage):
            self.order = torch.randperm(5)

    states = []
    for callbacks in ([], [WorstCaseSearch(0.2, steps=1)]):
        torch.manual_seed(3)
        trainer(callbacks=callbacks).test(Classifier(), datamodule=Split(), verbose=False)
        states.append(torch.get_rng_state())
    assert torch.equal(*states)


def test_nobody_has_validation_data():
    with pytest.raises(MisconfigurationException, match=r"nor Classifier has a val_dataloader .* pass find_on=loader"):
        trainer(callbacks=[WorstCaseSearch(0.2)]).test(Classifier(), loader(), verbose=False)


def test_limits_of_the_loop_and_several_loaders():
    search = WorstCaseSearch(0.2, steps=1, find_on=VAL, max_batches=1)
    over = make_trainer(FLAVOURS[0], callbacks=[search], limit_test_batches=2)

    class Two(type(make(FLAVOURS[0]))):
        def test_step(self, batch, batch_idx, dataloader_idx=0):
            super().test_step(batch, batch_idx)

    torch.manual_seed(0)
    over.test(Two(), [data(3, seed=4), data(1, seed=5)], verbose=False)
    assert search.result.held_out.count == 4 * (2 + 1)
    assert search.result.found_on.count == 4


def test_masks_and_quantisation_of_the_run_are_kept():
    sparse = cim.StructuredSparsity("2:4")
    precision = cim.MixedPrecision(weight_bits=4, activation_bits=6)
    search = WorstCaseSearch(0.2, steps=2)
    run = fit(FLAVOURS[0], lambda _: {"callbacks": [sparse, precision, search]})
    ranges = copy.deepcopy(precision.state_dict())
    run.trainer.test(run.model, TEST, verbose=False)
    for name, mask in sparse.masks.items():
        deviations = search.result.chip.deviations[name]
        assert (deviations[~mask] == 0).all()
        assert (deviations[mask] != 0).any()
        assert search.result.layers[name] <= 0.2 + 1e-7
    assert search.result.clean == pytest.approx(run.trainer.callback_metrics["test/acc"].item())
    assert str(precision.state_dict()) == str(ranges)


def test_averaged_weights_are_searched():
    search = WorstCaseSearch(0.2, steps=2, every_n_epochs=1)
    averaging = callback_of(FLAVOURS[0], "WeightAveraging")()
    run = fit(FLAVOURS[0], lambda _: {"callbacks": [averaging, search]}, max_epochs=1)
    assert search.result.clean == pytest.approx(run.trainer.callback_metrics["val/acc"].item())


def test_batch_hooks_of_the_module_are_used():
    class Shifted(type(make(FLAVOURS[0]))):
        """Wants its inputs turned by a hook, as augmentation on the device does."""

        def on_after_batch_transfer(self, batch, dataloader_idx):
            return batch[0] * -2, batch[1]

    torch.manual_seed(0)
    model, search = Shifted(), WorstCaseSearch(0.2, steps=2, find_on=VAL)
    (logged,) = make_trainer(FLAVOURS[0], callbacks=[search]).test(model, TEST, verbose=False)
    assert search.result.clean == pytest.approx(logged["test/acc"])


def test_bf16_autocast():
    search = WorstCaseSearch(0.2, steps=2, find_on=VAL)
    (logged,) = make_trainer(FLAVOURS[0], callbacks=[search], precision="bf16-mixed").test(
        make(FLAVOURS[0]), TEST, verbose=False
    )
    assert search.result.clean == pytest.approx(logged["test/acc"])


@pytest.mark.parametrize("own", ["shuffled", "subset", "batches", "unbatched"])
def test_fresh_loaders_leave_the_runs_loaders_alone(own):
    data = TensorDataset(torch.arange(20))
    generator = torch.Generator().manual_seed(0)
    subset = SubsetRandomSampler([3, 5, 7, 9], generator)
    run = {
        "shuffled": lambda: DataLoader(data, 4, shuffle=True, generator=generator),
        "subset": lambda: DataLoader(data, 2, sampler=subset),
        "batches": lambda: DataLoader(data, batch_sampler=torch.utils.data.BatchSampler(subset, 2, False)),
        "unbatched": lambda: DataLoader([default_collate([data[i], data[i + 1]]) for i in (0, 2)], batch_size=None),
    }[own]()
    state = generator.get_state()
    found = torch.cat([batch[0] for batch in fresh(run)]).tolist()
    assert sorted(found) == {"shuffled": list(range(20)), "unbatched": [0, 1, 2, 3]}.get(own, [3, 5, 7, 9])
    assert torch.equal(generator.get_state(), state)
    assert not isinstance(run.dataset, TensorDataset) or fresh(run).dataset is run.dataset


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bound": -1.0}, "WorstCaseSearch: bound is the largest .* got -1.0"),
        ({"method": "grid"}, "WorstCaseSearch: method must be 'sign' or 'lagrange'"),
        ({"find_on": "test"}, "WorstCaseSearch: find_on must be 'val', 'train' or a loader, got 'test'"),
        ({"every_n_epochs": -1}, "every_n_epochs must be at least 0, got -1"),
    ],
)
def test_bad_arguments_are_refused(options, message):
    with pytest.raises(MisconfigurationException, match=message):
        WorstCaseSearch(**{"bound": 0.1, **options})


@pytest.mark.parametrize("flavour", FLAVOURS)
def test_a_mapping_that_fits_nothing_and_sharding_are_refused(flavour):
    search = WorstCaseSearch(0.1, find_on=VAL, mapping=cim.Mapping(targets=["recurrent"]))
    with pytest.raises(MisconfigurationException if flavour == FLAVOURS[0] else Exception, match="maps no parameter"):
        make_trainer(flavour, callbacks=[search]).test(make(flavour), TEST, verbose=False)
    assert search._model is None
    single = importlib.import_module(f"{flavour}.strategies").SingleDeviceStrategy
    sharded = type("FSDPStrategy", (single,), {})(device="cpu")
    with pytest.raises(Exception, match="WorstCaseSearch does not work with FSDPStrategy"):
        make_trainer(flavour, callbacks=[WorstCaseSearch(0.1)], strategy=sharded).test(make(flavour), TEST)


class _Write:
    """Writes what each rank found."""

    def __init__(self, folder, search):
        super().__init__()
        self.folder, self.search = folder, search

    def on_test_end(self, trainer, pl_module):
        logged = trainer.callback_metrics["cim/acc_worst_case"].item()
        torch.save((self.search.result, logged), self.folder / f"rank{trainer.global_rank}.pt")


@pytest.mark.slow
@pytest.mark.parametrize("flavour", FLAVOURS)
def test_every_rank_ends_with_the_figure_of_one_process(flavour, tmp_path):
    search = WorstCaseSearch(0.2, steps=2, find_on=data(3, seed=6))
    write = type("Write", (_Write, importlib.import_module(flavour).Callback), {})(tmp_path, search)
    over = make_trainer(flavour, callbacks=[search, write], strategy="ddp_fork", devices=2)
    over.test(make(flavour), TEST, verbose=False)
    alone = worst_case(make(flavour), data(3, seed=6), 0.2, steps=2, evaluate_on=TEST, progress=False)
    for rank in range(2):
        result, logged = torch.load(tmp_path / f"rank{rank}.pt", weights_only=False)
        assert result.held_out == alone.held_out
        assert result.history == alone.history
        assert logged == pytest.approx(alone.worst)
