"""How much of the evaluation set a corpus holds: images and instances, by split and by frequency group."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from eva02_det.contamination.evaluation_images import FREQUENCY, EvaluationImage, EvaluationSet
from eva02_det.contamination.record import ANY


def affected(evaluation: EvaluationSet, corpora: Iterable[str], pairs: Iterable[dict[str, Any]]) -> dict[str, Any]:
    """The numbers of each corpus, and under "any" of all together. Confirmed pairs count; `unconfirmed_images` have no other.

    Of a frequency group: the images that show one of its categories, the instances of these, and how many of the categories
    are affected.
    """
    found: dict[str, set[int]] = {name: set() for name in (*corpora, ANY)}
    doubtful: dict[str, set[int]] = {name: set() for name in found}
    for pair in pairs:
        for name in (pair["corpus"], ANY):
            (found if pair["confirmed"] else doubtful)[name].add(pair["image_id"])
    return {name: _numbers(evaluation, ids) | {"unconfirmed_images": len(doubtful[name] - ids)} for name, ids in found.items()}


def _numbers(evaluation: EvaluationSet, ids: set[int]) -> dict[str, Any]:
    hit = [image for image in evaluation.images if image.image_id in ids]
    splits: dict[str, Any] = {}
    for split, total in sorted(Counter(image.split for image in evaluation.images).items()):
        inside, everywhere = _of_split(hit, split), _of_split(evaluation.images, split)
        splits[split] = {
            **{"images": len(inside), "of_images": total},
            **{"instances": _instances(inside), "of_instances": _instances(everywhere)},
        }
    return {
        **{"images": len(hit), "of_images": len(evaluation.images)},
        **{"instances": _instances(hit), "of_instances": evaluation.instances},
        "splits": splits,
        "frequency": _frequencies(evaluation, hit) if evaluation.frequency else {},
    }


def _frequencies(evaluation: EvaluationSet, hit: list[EvaluationImage]) -> dict[str, Any]:
    groups = {}
    for group in FREQUENCY.values():
        members = {category for category, frequency in evaluation.frequency.items() if frequency == group}
        inside, everywhere = _of_categories(hit, members), _of_categories(evaluation.images, members)
        groups[group] = {
            **{"categories": inside["categories"], "of_categories": len(members)},
            **{"images": inside["images"], "of_images": everywhere["images"]},
            **{"instances": inside["instances"], "of_instances": everywhere["instances"]},
        }
    return groups


def _of_categories(images: Iterable[EvaluationImage], members: set[int]) -> dict[str, int]:
    shown: Counter[int] = Counter()
    count = 0
    for image in images:
        mine = {category: number for category, number in image.objects.items() if category in members}
        shown.update(mine)
        count += bool(mine)
    return {"categories": len(shown), "images": count, "instances": sum(shown.values())}


def _of_split(images: Iterable[EvaluationImage], split: str) -> list[EvaluationImage]:
    return [image for image in images if image.split == split]


def _instances(images: Iterable[EvaluationImage]) -> int:
    return sum(image.instances for image in images)
