"""Reading pictures of every kind upright as RGB, finding them on disk, and resizing them as an evaluation does."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.data import transforms as T
from detectron2.data.detection_utils import read_image
from PIL import Image

from eva02_det.data.mapper import ImageError
from eva02_det.engine.images import Preprocessing, find_inputs, read_picture
from eva02_det.utils.errors import UserError
from tests.engine.tiny_detector import drawn_picture

ORIENTATION = 0x0112
# what undoes each EXIF orientation, as its definition says
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
}


@pytest.fixture
def picture() -> Image.Image:
    return drawn_picture(40, 24)


@pytest.mark.parametrize(
    ("mode", "suffix"),
    [
        *((mode, ".png") for mode in ("RGB", "L", "P", "1", "LA", "RGBA")),
        *((mode, ".jpg") for mode in ("RGB", "L", "CMYK", "YCbCr")),
        *((mode, ".tif") for mode in ("RGB", "L", "P", "1", "RGBA", "CMYK", "YCbCr")),
    ],
)
def test_every_kind_of_picture_is_read_as_the_evaluation_reads_it(picture: Image.Image, mode: str, suffix: str, tmp_path: Path):
    path = tmp_path / f"x{suffix}"
    picture.convert(mode).save(path)
    np.testing.assert_array_equal(read_picture(path).pixels, read_image(str(path), format="RGB"))
    assert read_picture(path).notes == ()


@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_exif_orientation_is_applied_and_said(picture: Image.Image, orientation: int, tmp_path: Path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture.save(tmp_path / "x.png", exif=exif)
    read = read_picture(tmp_path / "x.png")
    np.testing.assert_array_equal(read.pixels, UPRIGHT[orientation](np.asarray(picture)))
    assert [str(orientation) in note for note in read.notes] == ([True] if orientation > 1 else [])


@pytest.mark.parametrize("orientation", [0, 9, 60_000])
def test_a_senseless_exif_orientation_is_no_turn(picture: Image.Image, orientation: int, tmp_path: Path):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture.save(tmp_path / "x.png", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png").pixels, np.asarray(picture))


@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0MM\0*\0\0\0\x08\xff\xff\x01", b"Exif\0\0junk" * 9])
def test_a_damaged_exif_block_says_nothing_of_the_pixels(picture: Image.Image, exif: bytes, tmp_path: Path):
    picture.save(tmp_path / "x.jpg", exif=exif)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.jpg").pixels, read_image(str(tmp_path / "x.jpg"), format="RGB"))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_give_the_picture_that_eight_bits_give(picture: Image.Image, suffix: str, tmp_path: Path):
    gray = np.asarray(picture.convert("L"))
    Image.fromarray(gray.astype(np.uint16) * 257).save(tmp_path / f"x{suffix}")
    read = read_picture(tmp_path / f"x{suffix}")
    np.testing.assert_array_equal(read.pixels, np.repeat(gray[..., None], 3, 2))
    assert "16 bits" in read.notes[0]


def test_sixteen_bits_of_each_colour_give_the_picture_that_eight_bits_give(picture: Image.Image, tmp_path: Path):
    """Written by hand: Pillow reads such files but makes none."""
    pixels = np.asarray(picture)
    rows = b"".join(b"\0" + row.tobytes() for row in (pixels.astype(">u2") * 257))
    header = struct.pack(">IIBBBBB", picture.width, picture.height, 16, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in chunks:
        content += struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
    (tmp_path / "x.png").write_bytes(content)
    np.testing.assert_array_equal(read_picture(tmp_path / "x.png").pixels, pixels)


def test_transparency_is_ignored_and_said(picture: Image.Image, tmp_path: Path):
    picture.putalpha(90)
    picture.save(tmp_path / "x.png")
    read = read_picture(tmp_path / "x.png")
    np.testing.assert_array_equal(read.pixels, np.asarray(picture)[..., :3])
    assert read.notes == ("transparency is ignored",)


def test_the_first_frame_of_an_animation_is_used_and_said(picture: Image.Image, tmp_path: Path):
    picture.save(tmp_path / "x.tif", save_all=True, append_images=[picture.transpose(Image.Transpose.ROTATE_180)])
    read = read_picture(tmp_path / "x.tif")
    np.testing.assert_array_equal(read.pixels, np.asarray(picture))
    assert "first of 2" in read.notes[0]


def test_a_picture_of_pillow_is_treated_like_a_file(picture: Image.Image, tmp_path: Path):
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    picture.save(tmp_path / "x.jpg", exif=exif)
    with Image.open(tmp_path / "x.jpg") as opened:
        np.testing.assert_array_equal(read_picture(opened).pixels, read_picture(tmp_path / "x.jpg").pixels)


@pytest.mark.parametrize("content", [b"", b"hello", b"\xff\xd8\xff\xe0junk", b"\x89PNG\r\n\x1a\n" + b"\0" * 40])
def test_what_is_no_picture_is_named(content: bytes, tmp_path: Path):
    (tmp_path / "bad.png").write_bytes(content)
    with pytest.raises(ImageError, match=r"bad\.png cannot be decoded"):
        read_picture(tmp_path / "bad.png")


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_truncated_picture_is_named(picture: Image.Image, suffix: str, tmp_path: Path):
    path = tmp_path / f"cut{suffix}"
    picture.resize((400, 240)).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ImageError, match="cut"):
        read_picture(path)


def test_a_picture_of_unknown_range_is_named(tmp_path: Path):
    Image.fromarray(np.ones((4, 4), np.float32)).save(tmp_path / "x.tif")
    with pytest.raises(ImageError, match=r"x\.tif has 32-bit values"):
        read_picture(tmp_path / "x.tif")


def test_an_absent_picture_is_named(tmp_path: Path):
    with pytest.raises(ImageError, match=r"nowhere\.jpg does not exist"):
        read_picture(tmp_path / "nowhere.jpg")


@pytest.mark.parametrize("size", [(640, 480), (427, 640), (50, 50), (1, 1), (333, 334)])
@pytest.mark.parametrize("sides", [(128, 128), (100, 160)])
def test_the_model_sees_what_the_augmentation_of_the_test_loader_gives(size: tuple[int, int], sides: tuple[int, int]):
    pixels = np.asarray(drawn_picture(*size))
    seen = T.AugInput(pixels)
    T.AugmentationList([T.ResizeShortestEdge(*sides)])(seen)
    record = Preprocessing(*sides).record(pixels)
    assert torch.equal(record["image"], torch.from_numpy(np.ascontiguousarray(seen.image.transpose(2, 0, 1))))
    assert (record["width"], record["height"]) == size


def test_a_picture_thinner_than_a_pixel_after_resizing_keeps_one():
    assert Preprocessing(128, 128).record(np.zeros((1, 900, 3), np.uint8))["image"].shape == (3, 1, 128)


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_folders_are_searched_with_their_folders_in_order(tmp_path: Path):
    make(tmp_path, "b.jpg", "a.PNG", "sub/c.webp", "film.mp4", "notes.txt", ".hidden.jpg", ".git/d.jpg")
    found = find_inputs([tmp_path])
    assert [path.relative_to(tmp_path).as_posix() for path in found.pictures] == ["a.PNG", "b.jpg", "sub/c.webp"]
    assert [path.name for path in found.videos] == ["film.mp4"]
    assert [path.name for path in found.others] == ["notes.txt"]
    assert found.names[tmp_path / "sub" / "c.webp"] == "sub/c"


def test_no_two_files_share_a_name_for_their_results(tmp_path: Path):
    make(tmp_path, "one/x.jpg", "one/x.png", "two/x.jpg", "two/X.JPG")
    found = find_inputs([tmp_path / "one", tmp_path / "two"])
    assert len({name.lower() for name in found.names.values()}) == len(found.pictures) == 4
    assert found.names[tmp_path / "one" / "x.png"] == "x.png"


def test_a_file_that_comes_up_twice_counts_once(tmp_path: Path):
    make(tmp_path, "x.jpg")
    assert len(find_inputs([tmp_path / "x.jpg", tmp_path]).pictures) == 1


def test_a_named_file_with_an_unknown_suffix_is_taken_for_a_picture(tmp_path: Path):
    make(tmp_path, "x.camera")
    assert find_inputs([tmp_path / "x.camera"]).pictures == [tmp_path / "x.camera"]


def test_the_results_of_an_earlier_run_are_no_input(tmp_path: Path):
    make(tmp_path, "x.jpg", "out/pictures/x.jpg")
    assert find_inputs([tmp_path], without=tmp_path / "out").pictures == [tmp_path / "x.jpg"]


def test_an_absent_path_and_an_empty_folder_are_refused(tmp_path: Path):
    with pytest.raises(UserError, match="nowhere does not exist"):
        find_inputs([tmp_path / "nowhere"])
    make(tmp_path, "notes.txt")
    with pytest.raises(UserError, match="no picture and no video"):
        find_inputs([tmp_path])
