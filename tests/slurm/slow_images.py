"""Images that take a while to be read, so that a run lasts as long as a test on any machine needs."""

import time

from eva02_det.utils.sources.base import Source
from eva02_det.utils.sources.files import open_source


class SlowImages(Source):
    """The images of another source, `pause_s` later."""

    def __init__(self, spec: str, pause_s: float) -> None:
        self.images, self.pause_s = open_source(spec), pause_s
        self.digest = self.images.digest

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: int) -> bytes:
        time.sleep(self.pause_s)
        return self.images[number]

    def name(self, number: int) -> str:
        return self.images.name(number)
