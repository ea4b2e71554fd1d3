"""The losses of every step as they were, in a file: what a resumed run is compared with."""

import json
from pathlib import Path
from typing import IO

from detectron2.engine import HookBase

from eva02_det.utils.files import write_text

TRACE_FILE = "losses.jsonl"


class LossTrace(HookBase):
    """Writes {"iteration", "total_loss", ...} of each step to `losses.jsonl`, unsmoothed; null for a step that was left out.

    A resumed run first takes out what the stopped one wrote of steps that are taken again. For the main process.
    """

    def __init__(self, folder: str | Path) -> None:
        self._file = Path(folder) / TRACE_FILE
        self._stream: IO[str] | None = None

    def before_train(self) -> None:
        self._file.parent.mkdir(parents=True, exist_ok=True)
        write_text(self._file, "".join(_lines_before(self._file, self.trainer.start_iter)))
        self._stream = self._file.open("a", encoding="utf-8", buffering=1)  # a line is on its way once it is written

    def after_step(self) -> None:
        if self._stream is not None:
            losses = self.trainer.losses or {"total_loss": None}
            self._stream.write(json.dumps({"iteration": self.trainer.iter, **losses}) + "\n")

    def after_train(self) -> None:
        if self._stream is not None:
            self._stream.close()


def _lines_before(file: Path, iteration: int) -> list[str]:
    """The lines of earlier iterations; one that was cut off in the middle is left out."""
    kept = []
    for line in file.read_text(encoding="utf-8").splitlines() if file.is_file() else ():
        try:
            number = json.loads(line)["iteration"]
        except (json.JSONDecodeError, KeyError, TypeError):
            continue
        if number < iteration:
            kept.append(line + "\n")
    return kept
