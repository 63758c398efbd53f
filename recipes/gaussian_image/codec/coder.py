"""Range coder of integers under quantised Gaussians and of bits under one probability.

A thin layer over `constriction`, whose fixed-point Gaussian model takes its error function from pure Rust code and not
from the C library, so that streams move between machines. Streams are bytes: big-endian words whose trailing zero bytes
are left out, since a reader finds zeros after the end anyway.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recipes.gaussian_image.codec.errors import CodecError
from recipes.gaussian_image.codec.fixed_point import Ints
from recipes.gaussian_image.context import SYMBOL_BITS

LARGEST_SYMBOL = 1 << 20
"""Symbols lie within +-2^20, so that each keeps a probability above 0."""
PROBABILITY_BITS = 16
"""Probabilities of bits count in units of 2^-16."""


@dataclass(frozen=True)
class Support:
    """The smallest and the largest symbol that can be coded.

    Raises:
        CodecError: Fewer than two symbols, or one beyond +-2^20.
    """

    low: int
    high: int

    def __post_init__(self) -> None:
        if not -LARGEST_SYMBOL <= self.low < self.high <= LARGEST_SYMBOL:
            wanted = "want -2^20 <= low < high <= 2^20"
            raise CodecError(f"symbols from {self.low} to {self.high} cannot be coded: {wanted}")

    @classmethod
    def of(cls, symbols: Ints) -> Support:
        """The narrowest support of these symbols.

        Example:
            >>> Support.of(np.array([3, 3]))
            Support(low=3, high=4)
        """
        low, high = (int(symbols.min()), int(symbols.max())) if symbols.size else (0, 1)
        return cls(low, high) if low < high else cls(low, low + 1)

    def model(self) -> Any:
        """Family of Gaussians on this support, one mean and scale per symbol."""
        return _constriction().stream.model.QuantizedGaussian(self.low, self.high)

    def parameters(self, mean: Ints, scale: Ints) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean and scale from units of 2^-8, the mean moved into the support and the scale at least 2^-8."""
        unit = 1 << SYMBOL_BITS
        inside = np.clip(mean, self.low * unit, self.high * unit)
        return inside / unit, np.clip(scale, 1, LARGEST_SYMBOL * unit) / unit


def probability_of(bits: NDArray[np.bool_]) -> int:
    """Share of ones in units of 2^-16, between 1 and 2^16 - 1.

    Example:
        >>> probability_of(np.array([True, False])) == 1 << 15
        True
    """
    unit = 1 << PROBABILITY_BITS
    ones = (int(bits.sum()) * unit + bits.size // 2) // bits.size if bits.size else unit // 2
    return min(max(ones, 1), unit - 1)


class SymbolWriter:
    """Writes one stream.

    Example:
        >>> import pytest
        >>> _ = pytest.importorskip("constriction")
        >>> mean, scale = np.array([0, 512, 256]), np.array([256, 256, 256])
        >>> writer = SymbolWriter()
        >>> writer.gaussian(np.array([0, 2, 3]), Support(-4, 4), mean, scale)
        >>> data = writer.getvalue()
        >>> SymbolReader(data, "example").gaussian(Support(-4, 4), mean, scale).tolist()
        [0, 2, 3]
    """

    def __init__(self) -> None:
        self._coder = _constriction().stream.queue.RangeEncoder()

    def gaussian(self, symbols: Ints, support: Support, mean: Ints, scale: Ints) -> None:
        """Append symbols (n,), each under its own mean and scale (n,) in units of 2^-8.

        Raises:
            ValueError: A symbol outside the support.
        """
        if symbols.size == 0:
            return
        if symbols.min() < support.low or symbols.max() > support.high:
            raise ValueError(f"symbols from {symbols.min()} to {symbols.max()} do not fit {support}")
        self._coder.encode(symbols.astype(np.int32), support.model(), *support.parameters(mean, scale))

    def bits(self, bits: NDArray[np.bool_], ones: int) -> None:
        """Append bits (n,) with a probability of ones in units of 2^-16."""
        self._coder.encode(bits.astype(np.int32), _bernoulli(ones))

    def getvalue(self) -> bytes:
        """The stream so far."""
        words = self._coder.get_compressed()
        return bytes(words.astype(">u4").tobytes().rstrip(b"\0"))


class SymbolReader:
    """Reads one stream.

    Args:
        data: What `SymbolWriter.getvalue` gave.
        where: Which part of the file this is, for error messages.
    """

    def __init__(self, data: bytes, where: str) -> None:
        self._where = where
        words = np.frombuffer(data + b"\0" * (-len(data) % 4), dtype=">u4").astype(np.uint32)
        self._coder = _constriction().stream.queue.RangeDecoder(words)

    def gaussian(self, support: Support, mean: Ints, scale: Ints) -> Ints:
        """As many symbols as there are means (n,).

        Raises:
            CodecError: No such symbols can have been written.
        """
        if mean.size == 0:
            return np.zeros(0, dtype=np.int64)
        return self._decode(support.model(), *support.parameters(mean, scale))

    def bits(self, count: int, ones: int) -> NDArray[np.bool_]:
        """`count` bits written with this probability of ones.

        Raises:
            CodecError: No such bits can have been written, or the probability is not between 0 and 1.
        """
        if not 0 < ones < 1 << PROBABILITY_BITS:
            raise CodecError(f"{self._where}: probability {ones}/65536 of a bit is not between 0 and 1")
        return self._decode(_bernoulli(ones), count).astype(bool)

    def _decode(self, *args: Any) -> Ints:
        try:
            return np.asarray(self._coder.decode(*args), dtype=np.int64)
        except AssertionError as error:
            raise CodecError(f"{self._where}: the coded numbers are damaged ({error})") from error


def _bernoulli(ones: int) -> Any:
    return _constriction().stream.model.Bernoulli(ones / (1 << PROBABILITY_BITS), perfect=False)


def _constriction() -> ModuleType:
    """The library of the range coder, imported when first needed."""
    try:
        import constriction
    except ImportError as error:
        raise ImportError("the codec needs constriction: pip install 'lightning-cim[sgi]'") from error
    return constriction
