"""Write the support matrix: ``python -m tests.support docs/support.md``."""

import logging
import sys
from pathlib import Path

import torch

from tests.support.page import page

if __name__ == "__main__":
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
