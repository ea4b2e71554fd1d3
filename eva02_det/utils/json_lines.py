"""Files of one JSON object a line, written by runs that may be killed in the middle of a line."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eva02_det.utils.files import write_text


def read_lines(file: str | Path) -> Iterator[dict[str, Any]]:
    """The objects of a file; a line that was cut off is left out, a missing file has none."""
    path = Path(file)
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.is_file() else ():
        try:
            content = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(content, dict):
            yield content


def keep_lines(file: str | Path, wanted: Callable[[dict[str, Any]], bool]) -> None:
    """Take the other lines out of a file, which is written anew and atomically; a missing one stays missing."""
    if Path(file).is_file():
        write_text(file, "".join(json.dumps(content) + "\n" for content in read_lines(file) if wanted(content)))
