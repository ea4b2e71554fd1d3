"""The losses of every step as they were, in a file: what a resumed run is compared with."""

import json
from pathlib import Path
from typing import IO

from detectron2.engine import HookBase

from eva02_det.utils.json_lines import keep_lines

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
        start = self.trainer.start_iter
        keep_lines(self._file, lambda line: line.get("iteration", start) < start)
        self._stream = self._file.open("a", encoding="utf-8", buffering=1)  # a line is on its way once it is written

    def after_step(self) -> None:
        if self._stream is not None:
            losses = self.trainer.losses or {"total_loss": None}
            self._stream.write(json.dumps({"iteration": self.trainer.iter, **losses}) + "\n")

    def after_train(self) -> None:
        if self._stream is not None:
            self._stream.close()
