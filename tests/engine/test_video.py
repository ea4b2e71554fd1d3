"""Videos: frames, times and turns survive reading and writing, and a damaged file says how far it could be read."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from eva02_det.data.mapper import ImageError
from eva02_det.engine.video import read_frames, writing

TIMES_S = (0.0, 0.04, 0.08, 0.5, 0.54)  # a gap, as telephones leave them


def frame(shade: int, height: int = 48, width: int = 64) -> NDArray[np.uint8]:
    """Grey, its upper left quarter red."""
    pixels = np.full((height, width, 3), shade, np.uint8)
    pixels[: height // 2, : width // 2] = (230, 20, 20)
    return pixels


def write(path: Path, times: tuple[float, ...] = TIMES_S, **size: int) -> None:
    with writing(path) as video:
        for number, time_s in enumerate(times):
            video.write(frame(40 * number, **size), time_s)


def test_frames_come_back_in_order_with_their_times(tmp_path: Path):
    write(tmp_path / "x.mp4")
    frames = list(read_frames(tmp_path / "x.mp4"))
    assert [one.number for one in frames] == [0, 1, 2, 3, 4]
    assert [one.time_s for one in frames] == pytest.approx(TIMES_S, abs=1e-4)
    for one in frames:
        error = abs(one.pixels.astype(int) - frame(40 * one.number))
        assert np.median(error) <= 4  # the codec loses a little


def test_odd_sides_are_made_even_by_repeating_the_last_line(tmp_path: Path):
    write(tmp_path / "x.mp4", height=49, width=65)
    pixels = next(read_frames(tmp_path / "x.mp4")).pixels
    assert pixels.shape == (50, 66, 3)
    assert abs(pixels[:49, :65].astype(int) - frame(0, 49, 65)).mean() < 8


def test_repeated_times_do_not_stop_the_writer(tmp_path: Path):
    write(tmp_path / "x.mp4", times=(0.0, 0.0, 0.0, 0.1))
    assert len(list(read_frames(tmp_path / "x.mp4"))) == 4


@pytest.mark.parametrize(("rotation", "corner"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (-90, (0, -1))])
def test_a_film_taken_with_a_turned_camera_is_shown_upright(rotation: int, corner: tuple[int, int], tmp_path: Path):
    """A counterclockwise turn by 90 degrees carries the upper left corner to the lower left."""
    with av.open(str(tmp_path / "x.mp4"), "w") as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.set_display_rotation(rotation)
        for _ in range(3):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame(0), format="rgb24")))
        container.mux(stream.encode(None))
    pixels = next(read_frames(tmp_path / "x.mp4")).pixels
    assert pixels.shape == ((64, 48, 3) if rotation in (90, -90) else (48, 64, 3))
    red = [place for place in ((0, 0), (0, -1), (-1, 0), (-1, -1)) if pixels[place][0] > 150]
    assert red == [corner]


@pytest.mark.parametrize("suffix", ["mkv", "avi", "mov"])
def test_a_film_cut_off_gives_what_is_there_and_says_so(suffix: str, tmp_path: Path):
    whole, cut = tmp_path / f"whole.{suffix}", tmp_path / f"cut.{suffix}"
    with av.open(str(whole), "w", options={"movflags": "faststart"} if suffix == "mov" else {}) as container:
        stream = container.add_stream("mpeg4", rate=Fraction(25))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        generator = np.random.default_rng(0)
        for _ in range(40):
            noise = generator.integers(0, 255, (48, 64, 3), dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(noise, format="rgb24")))
        container.mux(stream.encode(None))
    assert len(list(read_frames(whole))) == 40
    cut.write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    seen: list[int] = []
    with pytest.raises(ImageError, match=r"after \d+ frames") as raised:
        seen.extend(one.number for one in read_frames(cut))
    assert 0 < len(seen) < 40
    assert f"after {len(seen)} frames" in str(raised.value)


@pytest.mark.parametrize("content", [b"", b"no film"])
def test_what_is_no_film_is_named(content: bytes, tmp_path: Path):
    (tmp_path / "bad.mp4").write_bytes(content)
    with pytest.raises(ImageError, match=r"bad\.mp4"):
        list(read_frames(tmp_path / "bad.mp4"))


def test_a_sound_recording_is_named(tmp_path: Path):
    with av.open(str(tmp_path / "song.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44_100)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 44_100
        container.mux(stream.encode(samples))
        container.mux(stream.encode(None))
    with pytest.raises(ImageError, match="no pictures"):
        list(read_frames(tmp_path / "song.mp4"))


def test_a_film_that_fails_half_way_leaves_no_file(tmp_path: Path):
    def half() -> None:
        with writing(tmp_path / "x.mp4") as video:
            video.write(frame(0), 0.0)
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half()
    assert not list(tmp_path.iterdir())
