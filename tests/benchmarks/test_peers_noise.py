"""That the peers benchmark sees what a contestant injects: nothing, too little, too seldom, or what was asked for."""

import copy

import peers_ours
import peers_plain
import pytest
import torch
from monte_carlo import SmallConvNet
from peers_noise import TAPS, Noise, check, impulses, observe
from peers_tasks import BATCH, SIGMA, batch_of, plain_step
from torch import nn


def small():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 16, 40), nn.Linear(40, 10)
    )


def twice(step):
    def run():
        step.run()
        step.run()

    return run


@pytest.mark.parametrize(
    "layer",
    [
        nn.Linear(7, 5),
        nn.Linear(3 * TAPS, 2),
        nn.Conv2d(2, 3, 3, padding=1),
        nn.Conv2d(2, 3, 3, stride=2, padding=1),
        nn.Conv2d(4, 3, 1, stride=2, bias=False),
        nn.Conv2d(2, 3, (3, 5), padding=(1, 2)),
        nn.Conv2d(40, 3, 3),
    ],
    ids=str,
)
def test_impulses_read_the_weights_of_a_layer(layer):
    inputs, read, weights = impulses(layer)
    with torch.no_grad():
        answer = read(layer(inputs)) - read(layer(torch.zeros_like(inputs)))
    torch.testing.assert_close(answer, weights, atol=1e-6, rtol=0)
    assert weights.shape == (min(TAPS, layer.weight[0].numel()), layer.weight.shape[0])
    held = layer.weight.flatten(1).T
    assert all((held == row).all(dim=1).any() for row in weights)


def test_a_grouped_convolution_is_refused():
    with pytest.raises(TypeError, match="cannot probe"):
        impulses(nn.Conv2d(4, 4, 3, groups=2))


@pytest.mark.parametrize("train", [peers_ours.train, peers_plain.train], ids=["lightning_cim", "plain"])
def test_training_steps_inject_the_std_asked_for_anew_at_each_step(train):
    torch.manual_seed(1)
    step = train(small(), batch_of(3, 8, 8))
    noise = observe(step.network, small(), twice(step))
    check(noise, SIGMA, 2, "contestant")
    assert noise.count == 27 * 8 + 128 * 40 + 40 * 10


@pytest.mark.parametrize("evaluate", [peers_ours.evaluate, peers_plain.evaluate], ids=["lightning_cim", "plain"])
@pytest.mark.filterwarnings("ignore:.*chips are few.*")
def test_an_evaluation_draws_one_chip_for_all_batches(evaluate):
    torch.manual_seed(2)
    network = SmallConvNet().net.eval()
    inputs, labels = batch_of(3, 32, 32)
    batches = [(inputs[:20], labels[:20]), (inputs[20:40], labels[20:40])]
    chips = evaluate(copy.deepcopy(network), batches)
    accuracies = []
    noise = observe(chips.network, network, lambda: accuracies.extend(chips.run(3)))
    check(noise, SIGMA, 3, "contestant")
    assert len(accuracies) == 3
    assert all(0 <= accuracy <= 1 for accuracy in accuracies)


def test_a_clean_contestant_is_caught():
    step = plain_step(small(), batch_of(3, 8, 8))
    noise = observe(step.network, small(), twice(step))
    with pytest.raises(ValueError, match=r"idle, MLP: noise of std 0\.00"):
        check(noise, SIGMA, 2, "idle, MLP")


def test_probing_leaves_the_step_and_the_random_state_alone():
    probed, plain = plain_step(small(), batch_of(3, 8, 8)), plain_step(small(), batch_of(3, 8, 8))
    reference = small()
    torch.manual_seed(3)
    observe(probed.network, reference, probed.run)
    after = torch.get_rng_state()
    torch.manual_seed(3)
    plain.run()
    assert torch.equal(after, torch.get_rng_state())
    for ours, theirs in zip(probed.network.parameters(), plain.network.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not any(module._forward_hooks for module in probed.network.modules())


def test_half_the_noise_stale_noise_and_noise_drawn_too_often_are_caught():
    check(Noise(0.1, 2, 10_000), 0.1, 2, "fine")
    with pytest.raises(ValueError, match=r"half: noise of std 0\.0500"):
        check(Noise(0.05, 2, 10_000), 0.1, 2, "half")
    with pytest.raises(ValueError, match="stale: 1 different draws of the noise, not 2"):
        check(Noise(0.1, 1, 10_000), 0.1, 2, "stale")
    with pytest.raises(ValueError, match="a batch: 8 different draws of the noise, not 2"):
        check(Noise(0.1, 8, 10_000), 0.1, 2, "a batch")


def test_a_layer_that_is_missing_or_never_runs_is_named():
    with pytest.raises(ValueError, match="no layer '3' to probe"):
        observe(small()[:3], small(), lambda: None)
    with pytest.raises(ValueError, match="the layers 0, 3, 4 never ran"):
        observe(small(), small(), lambda: None)


def test_a_layer_that_is_noisy_more_often_than_the_others_is_caught():
    network = small()
    reference = copy.deepcopy(network)

    def run():
        for _ in range(2):
            with torch.no_grad():
                network[3].weight.add_(0.1)
            network(torch.zeros(BATCH, 3, 8, 8))

    with pytest.raises(ValueError, match="saw between 0 and 2 draws"):
        observe(network, reference, run)
