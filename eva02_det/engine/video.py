"""Videos frame by frame, through FFmpeg's libraries (PyAV): never more than a few frames in memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from eva02_det.data.mapper import ImageError
from eva02_det.engine.images import Pixels
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path

CODECS = ("libx264", "mpeg4")  # the first that the installed FFmpeg has; mpeg4 is its own and always there
TICKS_PER_S = 90_000  # resolution of time stamps, MPEG's own: every common frame rate divides it
COMPLETE = 0.9  # part of the time that a file promises; its sound may be somewhat longer than its pictures
MICROSECONDS = 1e6  # a container's own clock ticks in them
USUAL_RATE = Fraction(25)  # frames a second where a file does not say


@dataclass(frozen=True)
class Frame:
    """One picture of a video."""

    number: int  # from 0
    time_s: float
    pixels: Pixels  # [H, W, 3] RGB, upright


def read_frames(path: str | Path) -> Iterator[Frame]:
    """The frames in the order of time, turned as the file says (telephones film upright sideways).

    ImageError, which says how far it came, where the file cannot be decoded, breaks off or holds no picture.
    """
    av = _pyav()
    number, time_s, length_s = 0, 0.0, 0.0
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise ImageError(f"video {path} has no pictures, only sound or text; give another file")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate, length_s = stream.average_rate or USUAL_RATE, _length_s(container, stream)
            for decoded in container.decode(stream):
                time_s = float(number / rate if decoded.time is None else decoded.time)
                yield Frame(number, time_s, _upright(decoded))
                number += 1
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ImageError(f"video {path} cannot be decoded after {number} frames ({error}); copy or download it again") from error
    if not number:
        raise ImageError(f"video {path} holds no frame that can be decoded; copy or download it again")
    if time_s + 2 / rate < COMPLETE * length_s:
        raise ImageError(f"video {path} breaks off after {number} frames, {time_s:.1f} of {length_s:.1f} s; copy it again")


class VideoWriter:
    """Encodes frames of one size as they come. Made by `writing`."""

    def __init__(self, container: Any) -> None:
        self._container = container
        self._stream: Any = None
        self._last_tick = -1

    def write(self, pixels: Pixels, time_s: float) -> None:
        """Add a frame [H, W, 3], shown from `time_s` on. An odd side gets a line of pixels twice, as the codec needs."""
        height, width = pixels.shape[:2]
        even = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        if self._stream is None:
            self._stream = _open_stream(self._container, even.shape[1], even.shape[0])
        frame = _pyav().VideoFrame.from_ndarray(even, format="rgb24")
        self._last_tick = max(round(time_s * TICKS_PER_S), self._last_tick + 1)  # files with repeated time stamps exist
        frame.pts, frame.time_base = self._last_tick, Fraction(1, TICKS_PER_S)
        self._container.mux(self._stream.encode(frame))

    def finish(self) -> None:
        """Write what the codec still holds back."""
        if self._stream is not None:
            self._container.mux(self._stream.encode(None))


@contextmanager
def writing(path: str | Path) -> Iterator[VideoWriter]:
    """A writer of an .mp4 file, which appears when the block ends well."""
    with atomic_path(path) as beside, _pyav().open(str(beside), "w", format="mp4") as container:
        writer = VideoWriter(container)
        yield writer
        writer.finish()


def _open_stream(container: Any, width: int, height: int) -> Any:
    av = _pyav()
    codec = next((name for name in CODECS if name in av.codecs_available), CODECS[-1])
    stream = container.add_stream(codec, rate=USUAL_RATE)
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.codec_context.time_base = Fraction(1, TICKS_PER_S)
    if codec == "libx264":
        stream.options = {"crf": "20", "preset": "veryfast"}
    else:
        stream.bit_rate = 8 * width * height  # without it the codec blurs small lettering
    return stream


def _length_s(container: Any, stream: Any) -> float:
    """How long the pictures last according to the file; 0 where it does not say."""
    if stream.duration:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / MICROSECONDS


def _upright(decoded: Any) -> Pixels:
    """The frame [H, W, 3] after its quarter turns, counted counterclockwise."""
    pixels = decoded.to_ndarray(format="rgb24")
    return np.ascontiguousarray(np.rot90(pixels, round(decoded.rotation / 90) % 4))


def _pyav() -> ModuleType:
    try:
        import av
    except ModuleNotFoundError as error:
        raise UserError("reading videos needs PyAV, which is not installed; run `pip install eva02-det[report]`") from error
    return av
