"""Weights of the networks as half-precision floats.

Each weight's upper byte (sign, exponent, two bits) takes few values and is deflated; the lower byte is noise and stays.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from recipes.gaussian_image.codec.errors import CodecError

_HEAD = struct.Struct("<I")


def write_weights(tensors: Mapping[str, Tensor]) -> bytes:
    """Bytes of float tensors, in order.

    Raises:
        ValueError: A weight that is not finite or exceeds what half precision holds, 65504; it names the tensor.
    """
    flat = []
    for name, tensor in tensors.items():
        half = tensor.detach().to("cpu", torch.float16).reshape(-1)
        if not bool(half.isfinite().all()):
            raise ValueError(f"{name} cannot be written in half precision: it has NaN or values beyond 65504")
        flat.append(half.numpy())
    planes = np.concatenate(flat).astype("<f2").view(np.uint8).reshape(-1, 2)
    upper = zlib.compress(planes[:, 1].tobytes(), 9)
    return _HEAD.pack(len(upper)) + upper + planes[:, 0].tobytes()


def read_weights(data: bytes, shapes: Mapping[str, torch.Size]) -> dict[str, Tensor]:
    """The float32 tensors of these names and shapes.

    Raises:
        CodecError: Bytes of another number of weights, or weights that are not finite.
    """
    count = sum(shape.numel() for shape in shapes.values())
    upper_end = _HEAD.size + (_HEAD.unpack_from(data)[0] if len(data) >= _HEAD.size else len(data))
    lower = np.frombuffer(data[upper_end:], dtype=np.uint8)
    inflate = zlib.decompressobj()
    try:
        upper = np.frombuffer(inflate.decompress(data[_HEAD.size : upper_end], count + 1), dtype=np.uint8)
    except zlib.error as error:
        raise CodecError(f"networks: the weights cannot be inflated ({error})") from error
    if len(upper) != count or len(lower) != count or inflate.unconsumed_tail:
        raise CodecError(f"networks: {len(lower)} weights in the file, {count} in the networks of its settings")
    values = np.stack([lower, upper], axis=1).reshape(-1).view("<f2").astype(np.float32)
    if not np.isfinite(values).all():
        raise CodecError("networks: a weight is not finite")
    pieces = torch.from_numpy(values).split([shape.numel() for shape in shapes.values()])
    return {name: piece.reshape(shape) for (name, shape), piece in zip(shapes.items(), pieces, strict=True)}
