"""What measured devices cost: drawing their errors, and a training step under them beside other toolkits' steps.

    python benchmarks/devices.py [--rounds 15] [--steps 5] [--peer-python PATH]

CPU time of one thread, interleaved in one process. The first table compares ``draw`` and ``deviate`` of every preset
with ``torch.randn`` of as many numbers as there are weights. The second one compares training steps of ResNet-18.

aihwkit's compiled tile needs the torch that it was built for, so the peers live in an environment of their own. With
``--peer-python`` the second table is printed by that interpreter, for all networks, ours included:

    python3.11 -m venv PEER
    PEER/bin/pip install --only-binary=aihwkit aihwkit==1.1.0 torch==2.10.0 torchvision==0.25.0
    PEER/bin/pip install aihwkit-lightning "lightning>=2.5,!=2.6.2,!=2.6.3" rich
    python benchmarks/devices.py --peer-python PEER/bin/python

The peers get what is best for them: ideal inputs and outputs, and one tile a layer however large.

* aihwkit, compiled tile: the Poly weight modifier with its default coefficients, which are the programming error of the
  same PCM, and SGD without momentum, which its optimizer has not. (PCMNoise is not implemented on CPUs.)
* aihwkit, torch tile: it refuses Poly, ProgNoise and PCMNoise, so noise of one std for all weights, which is less work.
* aihwkit-lightning: noise of one std as well; it knows no other.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from _measure import interleave, ratios, show
from injection import Classifier
from torch import Tensor, nn

import lightning_cim as cim
from recipes.image_classification.models import build_network, count_weights

ROOT = Path(__file__).resolve().parent.parent
BATCH = 64
DRAWS = 5
"""Draws a round; one is too short to be timed."""
DEVICE = "pcm-nandakumar2019"
BY_RATIO = ("rram1", "fefet2", "rram4", "fefet6")
"""Presets that need a sigma."""
STD = 0.04
"""Of the peers' additive noise, over max|W|; about PCM's. It does not matter to the time."""


def drawing(variation: cim.Variation, weight: Tensor) -> Callable[[], None]:
    """A function that draws the errors of a weight and adds them."""
    generator = torch.Generator().manual_seed(0)

    def run() -> None:
        for _ in range(DRAWS):
            variation.deviate(weight, variation.draw(weight.shape, generator))

    return run


def of_every_preset(rounds: int) -> None:
    """Print what a draw of each preset costs."""
    weight = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(1)) * 0.05
    generator = torch.Generator().manual_seed(0)

    def normal() -> None:
        for _ in range(DRAWS):
            torch.randn(weight.shape, generator=generator)

    variants = {"torch.randn of a million": normal}
    for name in cim.Measured.list():
        options = {"sigma": 0.1} if name in BY_RATIO else {}
        variants[name] = drawing(cim.Measured.preset(name, **options), weight)
    bars = dict.fromkeys(list(variants)[1:], 3.0)
    for mode in ("collapsed", "per_slice"):
        encoding = cim.Encoding(weight_bits=8, device_bits=2, mode=mode)
        name = f"{DEVICE}, 8/2 bits, {mode}"
        variants[name] = drawing(cim.Measured.preset(DEVICE, encoding=encoding), weight)
    bars[f"{DEVICE}, 8/2 bits, collapsed"] = 3.0
    times = interleave(variants, rounds)
    least = min(times["torch.randn of a million"]) / DRAWS
    print(f"a million numbers of torch.randn: {least * 1e3:.2f} ms")
    show("errors of a million weights: draw and deviate", times, "torch.randn of a million", bars)
    print("(8/2 bits per_slice draws eight numbers a weight, one for each device of four pairs)")


def resnet18(width: int) -> nn.Module:
    """The CIFAR ResNet-18 with 16 or 64 channels in its first stage; the same weights at every call."""
    torch.manual_seed(0)
    return build_network("resnet18", classes=10, width=width / 64)


def batch_of() -> tuple[Tensor, Tensor]:
    """Images and labels, the same at every call."""
    torch.manual_seed(1)
    return torch.randn(BATCH, 3, 32, 32), torch.randint(0, 10, (BATCH,))


def our_step(width: int, variation: cim.Variation | None) -> Callable[[], None]:
    """A function that trains one step with the callback's own hooks; without a variation, a clean step."""
    module, batch = Classifier(resnet18(width)), batch_of()
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-3, momentum=0.9)
    callback = None if variation is None else cim.VariationInjection(variation)
    trainer = SimpleNamespace(global_rank=0, barebones=True)
    if callback is not None:
        callback.attach(trainer, module)

    def run() -> None:
        if callback is not None:
            callback.on_train_batch_start(trainer, module, batch, 0)
        loss = module.training_step(batch, 0)
        optimizer.zero_grad()
        loss.backward()
        if callback is not None:
            callback.on_after_backward(trainer, module)
        optimizer.step()
        if callback is not None:
            callback.on_train_batch_end(trainer, module)

    return run


def plain_step(net: nn.Module, optimizer: torch.optim.Optimizer) -> Callable[[], None]:
    """A function that trains one step of a network whose layers are noisy by themselves."""
    inputs, labels = batch_of()

    def run() -> None:
        loss = nn.functional.cross_entropy(net(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return run


def with_momentum(net: nn.Module) -> Callable[[], None]:
    return plain_step(net, torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9))


def aihwkit_steps(width: int) -> dict[str, Callable[[], None]]:
    """Training steps of both tiles of aihwkit, with ideal inputs and outputs."""
    from aihwkit.nn.conversion import convert_to_analog
    from aihwkit.optim import AnalogSGD
    from aihwkit.simulator.configs import InferenceRPUConfig, TorchInferenceRPUConfig
    from aihwkit.simulator.parameters.enums import WeightModifierType

    def analog(config: Any, kind: WeightModifierType, std: float) -> nn.Module:
        config.forward.is_perfect = config.backward.is_perfect = True
        config.mapping.max_input_size = config.mapping.max_output_size = 0
        config.modifier.type, config.modifier.std_dev = kind, std
        return convert_to_analog(resnet18(width), config)

    compiled = analog(InferenceRPUConfig(), WeightModifierType.POLY, 1.0)  # a factor on the polynomial
    optimizer = AnalogSGD(compiled.parameters(), lr=1e-3)
    optimizer.regroup_param_groups(compiled)
    return {
        "aihwkit, compiled tile, PCM polynomial": plain_step(compiled, optimizer),
        "aihwkit, torch tile, additive noise": with_momentum(
            analog(TorchInferenceRPUConfig(), WeightModifierType.ADD_NORMAL, STD)
        ),
    }


def aihwkit_lightning_steps(width: int) -> dict[str, Callable[[], None]]:
    """A training step of aihwkit-lightning with ideal inputs and outputs, its defaults."""
    from aihwkit_lightning.nn.conversion import convert_to_analog
    from aihwkit_lightning.simulator.configs import TorchInferenceRPUConfig, WeightNoiseInjectionType

    config = TorchInferenceRPUConfig()
    config.modifier.noise_type, config.modifier.std_dev = WeightNoiseInjectionType.ADD_NORMAL, STD
    return {"aihwkit-lightning, additive noise": with_momentum(convert_to_analog(resnet18(width), config))}


PEERS = {"aihwkit": aihwkit_steps, "aihwkit_lightning": aihwkit_lightning_steps}


def of_training(rounds: int, widths: list[int]) -> None:
    """Print what a training step costs, here and in the peers that this interpreter has."""
    found = {name: make for name, make in PEERS.items() if importlib.util.find_spec(name)}
    peers = ", ".join(f"{name} {version_of(name)}" for name in found) or "no peer installed; see --help"
    print(f"\ntraining: torch {torch.__version__}, {peers}; batch {BATCH}, {rounds} rounds")
    ours = f"{DEVICE}, VariationInjection"
    for width in widths:
        variants = {
            "clean step": our_step(width, None),
            ours: our_step(width, cim.Measured.preset(DEVICE)),
        }
        for make in found.values():
            variants |= make(width)
        times = interleave(variants, rounds)
        size = count_weights(resnet18(width)) / 1e6
        show(f"CIFAR ResNet-18, w={width} ({size:.1f} M parameters)", times, "clean step", {})
        for name, (least, median) in list(ratios(times, ours).items())[2:]:
            print(f"faster than {name}: {least:.2f} x (ratio of minima), {median:.2f} x (median ratio); bar: >= 2.5 x")


def version_of(name: str) -> str:
    return importlib.metadata.version(name.replace("_", "-"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="of the draws")
    parser.add_argument("--steps", type=int, default=5, help="rounds of the training steps")
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 64], help="channels of the first stage")
    parser.add_argument("--peer-python", metavar="PATH", help="interpreter of an environment with aihwkit")
    parser.add_argument("--only-training", action="store_true", help="leave out the draws")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if not options.only_training:
        print(f"torch {torch.__version__}, 1 thread, {options.rounds} rounds of {DRAWS} draws, seed 0")
        of_every_preset(options.rounds)
    if options.peer_python is None:
        of_training(options.steps, options.widths)
        return
    widths = [str(width) for width in options.widths]
    command = [options.peer_python, __file__, "--only-training", "--steps", str(options.steps), "--widths", *widths]
    paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
    sys.stdout.flush()
    finished = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}, check=False)
    sys.exit(finished.returncode)


if __name__ == "__main__":
    main()
