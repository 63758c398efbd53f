"""What a fit has come to: its file, and everything that is said about it, from that file alone."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from torch import Tensor

from recipes._tables import text
from recipes.gaussian_image import classical, figures, report
from recipes.gaussian_image.codec import commands as codec
from recipes.gaussian_image.codec.decoder import DecodedImage, decode
from recipes.gaussian_image.codec.encoder import encode
from recipes.gaussian_image.metrics import quality
from recipes.gaussian_image.rasterizers import rasterizer
from recipes.gaussian_image.structured import StructuredImage

Found = dict[str, Any]
Result = TypeVar("Result")

FILE = "image.sgi"
"""What `fit` calls its file."""
OURS = "structured Gaussians"
_LONG = 2.0
"""Seconds after which work is not timed again."""


def finish(
    model: StructuredImage, pixels: Tensor, out: Path, about: Found, codecs: Sequence[str] = tuple(classical.CODECS)
) -> Found:
    """Write the file of a fit and, from that file alone, all that is said about it.

    Args:
        model: Fitted; moved to the CPU.
        pixels: The image, (H, W, 3) in [0, 1].
        out: Folder; receives ``image.sgi``, ``decoded.png``, ``overview.png``, ``rate-distortion.png``,
            ``report.html`` and ``metrics.json``.
        about: ``image``, ``command``, ``config`` and whatever else belongs into ``metrics.json``.
        codecs: Of ``classical.CODECS``, to measure on the same image.

    Returns:
        What ``metrics.json`` holds.

    Raises:
        ValueError: A model that no file can hold, or an unknown codec.
    """
    model, path = model.cpu(), out / FILE
    data, encode_seconds = _cpu_seconds(lambda: encode(model, path))
    image, decode_seconds = _cpu_seconds(lambda: _opened(data))
    draw = rasterizer("auto")
    picture, draw_seconds = _cpu_seconds(lambda: image.render(draw=draw))
    codec.decode_file(path, out / "decoded.png")
    closeness = quality(picture, pixels)
    bpp = 8 * len(data) / (image.config.height * image.config.width)
    points = classical.measure(pixels, codecs)
    measured = [point for point in points if isinstance(point, classical.Point)]
    found: Found = {
        **about,
        "height": image.config.height,
        "width": image.config.width,
        "psnr": closeness.psnr,
        "ssim": closeness.ssim,
        "ms_ssim": closeness.ms_ssim,
        "note": closeness.note,
        "file_bytes": len(data),
        "bpp": bpp,
        "sizes": image.sizes,
        "cpu_seconds": {"encode": encode_seconds, "decode": decode_seconds, "draw": draw_seconds},
        "others": [asdict(point) for point in measured],
        "skipped": {point.codec: point.reason for point in points if isinstance(point, classical.Skipped)},
    }
    seeds = image.model.positions * 2.0 ** (image.config.levels - 1)
    overview = figures.overview(pixels, picture, seeds, f"decoded: {closeness.psnr:.2f} dB at {bpp:.3f} bits per pixel")
    overview.savefig(out / "overview.png", dpi=120)
    rates = equal_bytes = None
    curves: dict[str, list[tuple[float, float]]] = {}
    for point in measured:
        curves.setdefault(point.codec, []).append((point.bpp, point.quality.psnr))
    if curves:
        equal_bytes = report.equal_bytes_table(bpp, closeness.psnr, curves)
        ours = {OURS: [(bpp, closeness.psnr)]}
        rates = figures.rate_distortion({Path(about["image"]).name: {**ours, **curves}}, dashed=list(curves))
        rates.savefig(out / "rate-distortion.png", dpi=120)
    (out / "metrics.json").write_text(json.dumps(found, indent=1), encoding="utf-8")
    report.write_fit(out / "report.html", found, overview, rates, equal_bytes)
    print(f"{text(report.fit_table(found))}\n\nreport: {out / 'report.html'}, file: {path}")
    return found


def _opened(data: bytes) -> DecodedImage:
    image = decode(data)
    _ = image.attributes  # decodes every block
    return image


def _cpu_seconds(work: Callable[[], Result]) -> tuple[Result, float]:
    """What work gives, and the least CPU time of up to three turns; the first may load libraries."""
    times: list[float] = []
    while len(times) < 3 and (not times or times[-1] < _LONG):
        begin = time.process_time()
        result = work()
        times.append(time.process_time() - begin)
    return result, min(times)
