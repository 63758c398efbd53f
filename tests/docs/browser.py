"""A headless Chromium: pictures of pages, how wide they are at a width, and what their console says."""

import json
import re
import shutil
import subprocess
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--allow-file-access-from-files",  # the measuring page reads its frames
    "--host-resolver-rules=MAP * ~NOTFOUND",  # nothing from outside, whether there is a network or not
    "--enable-logging=stderr",
]


def chromium():
    """The browser's path; None where there is none."""
    return next(filter(None, map(shutil.which, NAMES)), None)


def screenshot(page: Path, width: int, height: int, picture: Path) -> str:
    """Write a picture of a page; returns the browser's log."""
    return _run(page, picture.parent, f"--window-size={width},{height}", f"--screenshot={picture}").stderr


def scroll_widths(pages: list[Path], widths: list[int], folder: Path) -> dict[tuple[str, int], int]:
    """How wide each page wants to be when it may be so wide: more means that it scrolls sideways.

    The pages are frames of one page, because a browser's window has a least width of its own.
    """
    wanted = [[page.as_uri(), width] for page in pages for width in widths]
    wrapper = folder / "widths.html"
    wrapper.write_text(
        f"""<!doctype html><meta charset="utf-8"><body><script>
        const wanted = {json.dumps(wanted)}, found = [];
        addEventListener("load", () => {{
          const frames = [...document.querySelectorAll("iframe")];
          const widths = frames.map(frame => frame.contentDocument.documentElement.scrollWidth);
          const out = document.createElement("pre");
          out.id = "found"; out.textContent = JSON.stringify(widths); document.body.append(out);
        }});
        for (const [address, width] of wanted) {{
          const frame = document.createElement("iframe");
          frame.src = address; frame.style.cssText = `width:${{width}}px;height:600px;border:0`;
          document.body.append(frame);
        }}
        </script>""",
        encoding="utf-8",
    )
    dumped = _run(wrapper, folder, "--dump-dom", "--virtual-time-budget=20000").stdout
    found = re.search(r'<pre id="found">(\[.*?\])</pre>', dumped)
    assert found, dumped[-2000:]
    widths_found = json.loads(found.group(1))
    assert len(widths_found) == len(wanted)
    names = [(page.name, width) for page in pages for width in widths]
    return dict(zip(names, widths_found, strict=True))


def errors(log: str) -> list[str]:
    """Lines of a browser's log that are errors of the page; what it could not fetch from outside is none."""
    lines = [line for line in log.splitlines() if "CONSOLE" in line]
    return [line for line in lines if re.search(r"Uncaught|Error|error|Refused", line) and "ERR_NAME" not in line]


def _run(page: Path, folder: Path, *options: str) -> subprocess.CompletedProcess:
    profile = folder / "profile"
    command = [chromium(), *OPTIONS, f"--user-data-dir={profile}", *options, page.as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=180)
