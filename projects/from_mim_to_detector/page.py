"""One page with the curves and what they say."""

import base64
import html
from collections.abc import Sequence
from pathlib import Path

from eva02_det.utils.files import write_text
from projects.from_mim_to_detector.curves import Comparison, table


def write_page(folder: Path, found: Sequence[Comparison]) -> Path:
    """index.html, which needs no other file."""
    picture = base64.b64encode((folder / "curves.png").read_bytes()).decode()
    text = f"""<!doctype html><html lang="en"><meta charset="utf-8"><title>From masked image modelling to a detector</title>
<body style="font-family: sans-serif; margin: 2em">
<h1>From masked image modelling to a detector</h1>
<p>The same nano detector on the same data from scratch and from a pre-trained student. Dotted: the final box AP from scratch,
and half of its iterations. Circle: the first evaluation at which the pre-trained one has that AP.</p>
<img alt="box AP against iterations" src="data:image/png;base64,{picture}">
<pre>{html.escape(table(found))}</pre></body></html>
"""
    write_text(folder / "index.html", text)
    return folder / "index.html"
