"""A report of duplicates as the search writes it, with pictures to go with it; names that would break a careless page."""

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

HOSTILE = '<img src=x onerror="document.title=1">&"\'.jpg'
CORPORA = ("web <b>crawl</b>", "o365 & co")


def picture(number: int, size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Smooth colours that differ from every other number's."""
    generator = np.random.default_rng(number)
    coarse = Image.fromarray(generator.integers(0, 256, (6, 8, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def pair(image: int, corpus: int, **more: Any) -> dict[str, Any]:
    """A confirmed copy of that image; `more` replaces fields."""
    usual = {
        "image_id": image,
        "file_name": f"val2017/{image:012d}.jpg",
        "corpus": CORPORA[corpus],
        "corpus_image": f"shard-00{image}.tar/{image}.png",
        "found_by": ["fingerprint"],
        "bits": 3,
        "similarity": 0.987,
        "coverage": 0.85,
        "flip": False,
        "quarter_turns": 0,
        "window": None,
        "confirmed": True,
        "reason": "the pixels agree",
    }
    return usual | more


def numbers(images: int, instances: int) -> dict[str, Any]:
    """Of 40 images with 200 objects, half of them from each of COCO's folders."""
    groups = {"rare": 1, "common": 2, "frequent": 3}
    return {
        **{"images": images, "of_images": 40, "instances": instances, "of_instances": 200, "unconfirmed_images": 1},
        "splits": {
            "train2017": {"images": images, "of_images": 20, "instances": instances, "of_instances": 100},
            "val2017": {"images": 0, "of_images": 20, "instances": 0, "of_instances": 100},
        },
        "frequency": {
            name: {
                **{"categories": number, "of_categories": 5, "images": images // number, "of_images": 30},
                **{"instances": instances // number, "of_instances": 90},
            }
            for name, number in groups.items()
        },
    }


def record() -> dict[str, Any]:
    """12 pairs of the first corpus, one of them unconfirmed, and 2 of the second."""
    first = [pair(image, 0) for image in range(1, 12)]
    first[0] |= {"flip": True, "quarter_turns": 3, "found_by": ["fingerprint", "embedding"]}
    first[1] |= {"window": [0.25, 0.0, 0.75, 0.5], "reason": "a part of it, cropped"}
    first[2]["corpus_image"] = HOSTILE
    doubtful = pair(20, 0, confirmed=False, similarity=None, coverage=None, reason="the pixels <differ>")
    second = [pair(1, 1, found_by=["id"], bits=None, similarity=None, coverage=None, reason="the same id"), pair(30, 1)]
    return {
        "format": 1,
        "evaluation": {"name": "lvis_v1_val", "images": 40, "instances": 200, "digest": "ab" * 16, "unreadable": 0},
        "corpora": [
            {
                **{"name": CORPORA[0], "spec": "/data/web/{000..127}.tar", "digest": "c" * 64},
                **{"images": 12_345, "read": 12_340, "unreadable": 5},
            },
            {
                **{"name": CORPORA[1], "spec": "/data/o365.json@/data/images", "digest": "d" * 64},
                **{"images": 600, "read": 0, "unreadable": 0},
            },
        ],
        "settings": {
            **{"stages": ["id", "bytes", "fingerprint", "align"], "max_bits": 10, "embedder": None, "min_similarity": 0.75},
            "versions": {"eva02_det": "0.6", "pillow": "13.0.0"},
        },
        "pairs": [doubtful, *first, *second],
        "affected": {CORPORA[0]: numbers(11, 60), CORPORA[1]: numbers(2, 9), "any": numbers(12, 64)},
    }


class Pictures:
    """The pictures behind the pairs: mirrored, turned or cropped where the pair says so; those of the second corpus are lost."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        for image in [*range(1, 12), 20, 30]:
            picture(image).save(self.evaluation_file(image))
        self._pairs = {(one["corpus"], one["corpus_image"]): one for one in record()["pairs"]}

    def evaluation_file(self, image_id: int) -> Path:
        return self.folder / f"{image_id}.jpg"

    def corpus_bytes(self, corpus: str, name: str) -> bytes | None:
        one = self._pairs[corpus, name]
        if corpus == CORPORA[1]:
            return None
        made = picture(one["image_id"] + (0 if one["confirmed"] else 100))
        if one["window"]:
            width, height = made.size
            x0, y0, x1, y1 = one["window"]
            made = made.crop((int(x0 * width), int(y0 * height), int(x1 * width), int(y1 * height)))
        if one["flip"]:
            made = made.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return encoded(made.rotate(90 * one["quarter_turns"], expand=True), "PNG")
