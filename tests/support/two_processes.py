"""The rows of two processes: ``python -m tests.support.two_processes FILE`` writes their cells as JSON."""

import json
import logging
import os
import sys
import warnings
from dataclasses import asdict
from pathlib import Path

import torch

from tests.support.cells import tried
from tests.support.ways import CALLBACKS, TWO_PROCESSES


def main(path: Path) -> None:
    """Run every cell on both ranks; rank 0 writes."""
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    found = {
        way.name: {name: asdict(tried(lambda check=check, way=way: check(way))) for name, check in CALLBACKS.items()}
        for way in TWO_PROCESSES
    }
    if int(os.environ.get("LOCAL_RANK", 0)) == 0:
        path.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
