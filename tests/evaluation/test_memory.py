"""Freed activations stay in the process during an evaluation, and leave it afterwards."""

import ctypes
import os
import subprocess
import sys

import pytest

GLIBC = sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")

# glibc's thresholds drift with what was freed before; the environment pins them where a program starts.
PINNED = {"MALLOC_MMAP_THRESHOLD_": "131072", "MALLOC_TRIM_THRESHOLD_": "131072"}
PROGRAM = """
import resource, sys
import torch
from contextlib import nullcontext
from lightning_cim.evaluation.memory import kept_memory

def layers():
    for _ in range(10):
        activation = torch.ones(2**22)
        for size in (2**22, 2**20, 2**21, 2**21, 2**19):
            activation = torch.ones(size)

with kept_memory() if sys.argv[1] == "kept" else nullcontext():
    layers()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    layers()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode):
    environment = {**os.environ, **PINNED}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, mode], capture_output=True, text=True, check=True, env=environment
    )
    return int(done.stdout)


@pytest.mark.skipif(not GLIBC, reason="needs glibc's mallopt")
def test_activations_are_not_faulted_in_again():
    assert faults("kept") < 0.1 * faults("default")
