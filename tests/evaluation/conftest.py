"""A trained network that several files search."""

import pytest
import torch
from torch import nn

from tests.evaluation.worst_case_toys import cross_entropy_data, fitted


@pytest.fixture
def mlp():
    torch.manual_seed(0)
    return fitted(nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, 3)), cross_entropy_data())
