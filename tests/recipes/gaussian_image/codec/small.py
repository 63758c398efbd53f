"""A small model whose attributes follow its own entropy model."""

import torch

from recipes.gaussian_image.context import KINDS
from recipes.gaussian_image.hash_grid import HashConfig
from recipes.gaussian_image.structured import SgiConfig, StructuredImage

CONFIG = SgiConfig(
    height=70,
    width=99,
    levels=2,
    num_seeds=150,
    k=3,
    feat_dim=5,
    hidden=7,
    context_hidden=6,
    hash=HashConfig(resolutions=(6, 11), table_size=64, features=2),
)


def small_model(config=CONFIG, seed=0):
    """Random networks and hash grid, and attributes drawn as the entropy model expects them."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = StructuredImage(config)
        with torch.no_grad():
            model.context.grid.table.normal_()
            for layer in model.context.mlp[::2]:
                layer.weight.normal_(std=0.5)
            # Scalings are positive: around 1, rarely near 0.
            total, first = sum(config.widths.values()), config.feat_dim
            model.context.mlp[2].bias[first : first + 4] = 1.0
            model.context.mlp[2].weight[total + first : total + first + 4] = 0.0
            model.context.mlp[2].bias[total + first : total + first + 4] = -2.0
            model.color_mlp[-1].bias.uniform_(0, 0.5)
            drawn = {kind: s.mean + s.scale * torch.randn(s.mean.shape) for kind, s in model.context().items()}
            model.feature.copy_(drawn[KINDS[0]])
            model.log_scale.copy_(drawn[KINDS[1]].abs().clamp(0.2, 3).log())
            model.offset.copy_(drawn[KINDS[2]].view_as(model.offset))
    return model
