"""A page in a headless browser: its DOM after loading, and what one would see."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)
PROBE = """
<script>addEventListener("load", () => document.body.setAttribute("data-seen", JSON.stringify({
  images: [...document.images].map(one => [one.complete, one.naturalWidth, one.naturalHeight]),
  width: [document.documentElement.scrollWidth, innerWidth],
  shown: [...document.querySelectorAll("article")].filter(one => one.offsetParent).length,
  loaded: performance.getEntriesByType("resource").map(one => one.name).filter(name => !name.startsWith("data:")),
})))</script>
"""


def dom(page: Path, profile: Path) -> str:
    """The document as the browser has it after loading."""
    return _run(page, profile, "--dump-dom")


def screenshot(page: Path, profile: Path, target: Path, size: tuple[int, int] = (1280, 1600)) -> Path:
    """What is seen of the page at this size."""
    _run(page, profile, f"--screenshot={target}", "--window-size={},{}".format(*size))
    return target


def seen(page: Path, profile: Path, checked: str | None = None) -> dict[str, Any]:
    """Whether each image was decoded, and its size; how wide the page is; how many pairs are visible; what was loaded.

    The page itself forbids scripts: a copy without that line asks. checked: id of a choice to tick first.
    """
    text = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page.read_text(encoding="utf-8"))
    tick = f'<script>document.getElementById("{checked}").checked = true</script>' if checked else ""
    probed = page.with_name(f"probed-{checked or 'page'}.html")
    probed.write_text(text.replace("</body>", f"{tick}{PROBE}</body>"), encoding="utf-8")
    found = re.search(r'data-seen="([^"]*)"', dom(probed, profile))
    assert found, "the browser ran no script"
    return json.loads(found[1].replace("&quot;", '"').replace("&amp;", "&"))


def _run(page: Path, profile: Path, *action: str) -> str:
    command = [str(BROWSER), *QUIET, f"--user-data-dir={profile}", *action, page.resolve().as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout
