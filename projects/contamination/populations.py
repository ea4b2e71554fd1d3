"""Made-up detectors on a made-up population of images, all of whose AP is known: what intervals are checked with."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from eva02_det.evaluation.backends import IOU_THRESHOLDS
from eva02_det.evaluation.matches import Matches

# Axes: I images, K categories, G objects, P pairs of an image and a category that was looked for in it.

OVERLAPS = (0.52, 0.72, 0.9)  # that a detection can have with its object; few, so that thresholds share their matches


@dataclass(frozen=True)
class Population:
    """Matches of two detectors, of which the second has seen the second half of the images."""

    first: Matches
    second: Matches
    seen: NDArray[np.bool_]  # [I]


@dataclass(frozen=True)
class Kind:
    """images: of the population. per_image: categories with objects, a mean. tail: exponent of Zipf's law of the categories'
    popularity; the higher, the more of them are rare. gain: of the second detector on the images that it has seen. apart: by how
    much each detector is better or worse at a category than the category is easy; little between arms of one recipe."""

    images: int = 4000
    categories: int = 8
    per_image: float = 2.0
    tail: float = 0.5
    gain: float = 0.4
    apart: float = 0.15


def population(kind: Kind, seed: int) -> Population:
    """Objects share the difficulty of their image, and both detectors that of the object: what makes a comparison paired."""
    generator = np.random.default_rng(seed)
    popularity = 1 / np.arange(1, kind.categories + 1) ** kind.tail
    share = np.minimum(kind.per_image * popularity / popularity.sum(), 0.9)
    there = generator.random((kind.images, kind.categories)) < share
    looked = there | (generator.random(there.shape) < share)
    count = generator.geometric(0.7, there.sum())
    image, category = (np.repeat(column, count) for column in np.nonzero(there))
    ease = generator.normal(0, 0.8, kind.categories)[category] + generator.normal(0, 0.7, kind.images)[image]
    ease += generator.normal(0, 0.7, len(image))
    seen = np.arange(kind.images) >= kind.images // 2
    arms = []
    for gain in (0.0, kind.gain):
        skill = generator.normal(0, kind.apart, kind.categories)[category] + gain * seen[image]
        arms.append(_detector(kind, generator, (image, category), np.nonzero(looked), ease + skill))
    return Population(*arms, seen)


def _detector(
    kind: Kind,
    generator: np.random.Generator,
    objects: tuple[NDArray[np.int64], NDArray[np.int64]],
    looked: tuple[NDArray[np.int64], NDArray[np.int64]],
    ease: NDArray[np.float64],
) -> Matches:
    """objects, looked: images and categories, [G] and [P], those of objects by image. ease: [G]."""
    quality = ease + generator.normal(0.5, 0.7, len(ease))
    found = np.flatnonzero(quality > -1)
    overlap = np.array(OVERLAPS)[np.digitize(quality[found], (0, 1.2))]
    false = np.repeat(np.arange(len(looked[0])), generator.poisson(0.7, len(looked[0])))
    image, category = (np.concatenate([mine[found], others[false]]) for mine, others in zip(objects, looked))
    scores = np.concatenate([quality[found] + generator.normal(0, 0.7, len(found)), generator.normal(-0.8, 1.1, len(false))])
    right = np.append(overlap, np.zeros(len(false))) >= IOU_THRESHOLDS[:, None]
    order, by_category = np.lexsort((-scores, category)), np.argsort(objects[1], kind="stable")
    return Matches(
        images=kind.images,
        categories=kind.categories,
        image=image[order].astype(np.int32),
        category=category[order].astype(np.int32),
        right=right[:, order],
        ignored=np.zeros_like(right),
        object_image=objects[0][by_category].astype(np.int32),
        object_category=objects[1][by_category].astype(np.int32),
    )
