"""Digests: equal exactly where bytes or decoded pixels are; decoding of what is damaged, turned or deep."""

import io

import numpy as np
import pytest
from PIL import ExifTags, Image

from eva02_det.contamination.digests import SIZE, DigestIndex, bytes_digest, pixels_digest
from eva02_det.contamination.images import Unreadable, brightness, decode, header
from tests.contamination.made_up import encoded, picture


def stored(image: Image.Image, kind: str, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_the_same_picture_stored_anew_without_loss_has_the_same_pixels_but_other_bytes():
    once, again = stored(picture(1), "PNG"), stored(picture(1), "BMP")
    assert bytes_digest(once) != bytes_digest(again)
    assert pixels_digest(decode(once)) == pixels_digest(decode(again)) != pixels_digest(decode(encoded(1)))


def test_pixels_differ_where_one_value_or_the_shape_does():
    pixels = decode(encoded(2))
    other = pixels.copy()
    other[0, 0, 0] ^= 1
    assert len({pixels_digest(one) for one in (pixels, other, pixels[:, ::-1], pixels.reshape(-1, pixels.shape[0], 3))}) == 4


def test_an_index_finds_all_images_of_a_digest_and_none_without_one():
    digests = [bytes_digest(b"a"), bytes(SIZE), bytes_digest(b"b"), bytes_digest(b"a")]
    index = DigestIndex(np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, SIZE))
    assert index.find(bytes_digest(b"a")) == [0, 3]
    assert index.find(bytes(SIZE)) == index.find(bytes_digest(b"c")) == []


def test_a_picture_is_decoded_upright():
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    content = stored(picture(3), "PNG", exif=exif)
    assert header(content) == ((160, 120), False)
    assert np.array_equal(decode(content), np.rot90(np.asarray(picture(3)), -1))


def test_sixteen_bits_are_brought_down_to_eight():
    grey = np.arange(0, 65536, 257, dtype=np.uint16).reshape(16, 16)
    content = stored(Image.fromarray(grey), "PNG")
    assert header(content) == ((16, 16), True)
    assert np.array_equal(decode(content), np.repeat(np.arange(256, dtype=np.uint8).reshape(16, 16, 1), 3, axis=2))


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "noise"])
def test_a_damaged_image_is_unreadable_for_a_reason_that_stays_the_same(damage: str):
    whole = encoded(4)
    content = {"cut": whole[: len(whole) // 2], "empty": b"", "text": b"<html>", "noise": b"\xff\xd8\xff" + bytes(200)}[damage]
    reasons = set()
    for _ in range(2):
        with pytest.raises(Unreadable) as caught:
            decode(content)
        reasons.add(str(caught.value))
        with pytest.raises(Unreadable):
            brightness(content)
    assert len(reasons) == 1
    assert reasons.pop()
