"""The numbers of a study in plain sentences and tables: what was measured, on what, and whether it is beyond noise."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tabulate import tabulate

from eva02_det.contamination.effects import (
    ALL,
    AP,
    BOTH,
    CLEAN,
    CONTAMINATED,
    DIFFERENCE,
    DOUBLE,
    EVERY,
    FEWEST_IMAGES,
    GAP,
    Estimate,
    Settings,
)

TASK_NAMES = {"bbox": "box AP", "segm": "mask AP"}
COLUMNS = (ALL, CONTAMINATED, CLEAN, BOTH)

Sizes = Mapping[str, Mapping[str, Mapping[str, int]]]  # subset -> group -> images, instances, categories


def sentences(estimates: Sequence[Estimate], subsets: Sizes, settings: Settings) -> list[str]:
    """The answer in words: what the estimates rest on; for each task the gap of one arm, or what each further arm gains."""
    found = {(one.task, one.quantity, one.arm, one.subset, one.group): one for one in estimates if one.metric == "AP"}
    lines = [_basis(subsets)]
    for task in dict.fromkeys(one.task for one in estimates):
        mine: dict[tuple[str, ...], Estimate] = {key[1:]: one for key, one in found.items() if key[0] == task}
        arms = list(dict.fromkeys(arm for quantity, arm, *_ in mine if quantity == DOUBLE))
        for arm in arms:
            lines += _of_two(TASK_NAMES[task], arm, mine, settings)
        if not arms:
            (arm,) = {arm for quantity, arm, *_ in mine if quantity == GAP}
            lines += _of_one(TASK_NAMES[task], arm, mine, settings)
    return lines


def in_words(one: Estimate, settings: Settings) -> str:
    """Value and interval of a difference: +0.31 (95 % interval -0.10 to +0.72)."""
    if one.value is None:
        return "undefined"
    if one.low is None or one.high is None:
        return f"{one.value:+.2f} (no interval: too many resamples hold none of its categories)"
    return f"{one.value:+.2f} ({100 * settings.confidence:g} % interval {one.low:+.2f} to {one.high:+.2f})"


def markdown(record: Mapping[str, Any]) -> str:
    """A study's record (`Study.as_record`) as a page: the sentences, what they rest on, all numbers."""
    settings = record["settings"]
    rows = [Estimate(**one) for one in record["estimates"]]
    parts = [f"# Contamination study on {record['evaluation']}", "\n".join(f"- {line}" for line in record["sentences"])]
    parts += [f"{arm}: `{source}`" for arm, source in record["arms"].items()]
    parts += ["## What the estimates rest on", _sizes_table(record["subsets"])]
    for task in dict.fromkeys(one.task for one in rows):
        parts += [f"## {_capital(TASK_NAMES[task])}", table(rows, task, "pipe")]
    parts.append(
        f"Percent; of differences percent points; in brackets the {100 * settings['confidence']:g} % interval, from "
        f"{settings['resamples']} resamples of half of the contaminated and half of the clean images (seed {settings['seed']}), "
        "the same ones for all arms. `*`: beyond noise, that is, 0 is outside of the interval. A mean is over the categories of "
        "which the subset, or the resample, has an object."
    )
    return "\n\n".join(parts) + "\n"


def table(estimates: Iterable[Estimate], task: str, style: str = "simple") -> str:
    """Numbers of a task, a line for each quantity, arm, group and metric; the subsets are columns."""
    lines: dict[tuple[str, ...], dict[str, str]] = {}
    for one in estimates:
        if one.task != task or one.value is None:
            continue
        kind = {GAP: AP, DOUBLE: DIFFERENCE}.get(one.quantity, one.quantity)
        lines.setdefault((kind, one.arm, one.group, one.metric), {})[one.subset] = _cell(one)
    rows = [[key[1], *key[2:], *(cells.get(column, "") for column in COLUMNS)] for key, cells in lines.items()]
    return tabulate(rows, headers=["arm", "categories", "metric", *COLUMNS], tablefmt=style, disable_numparse=True)


def _basis(subsets: Sizes) -> str:
    parts = {subset: _count(groups[EVERY]) for subset, groups in subsets.items()}
    return f"The numbers rest on {parts[CONTAMINATED]} that are contaminated and {parts[CLEAN]} that are clean."


def _count(size: Mapping[str, int]) -> str:
    return f"{size['images']:,} images ({size['instances']:,} instances of {size['categories']:,} categories)"


def _of_two(name: str, arm: str, found: Mapping[tuple[str, ...], Estimate], settings: Settings) -> Iterator[str]:
    parts = [f"{in_words(found[DIFFERENCE, arm, subset, EVERY], settings)} on {subset}" for subset in COLUMNS[:3]]
    yield f"{_capital(name)}, {arm}: {', '.join(parts)} images."
    double = found[DOUBLE, arm, BOTH, EVERY]
    yield f"The difference is {in_words(double, settings)} higher on contaminated images than on clean ones: {_judged(double)}"
    groups = {group: one for (kind, whose, _, group), one in found.items() if (kind, whose) == (DOUBLE, arm) and group != EVERY}
    if not groups:
        return
    looks = {group: one for group, one in groups.items() if one.beyond_noise is not None}
    clear = [f"{group} {in_words(one, settings)}" for group, one in looks.items() if one.beyond_noise]
    if not looks:
        yield "No group of categories has images enough to say more."
    elif clear:
        yield (
            f"By group of categories, that of {', '.join(clear)} is beyond noise; of {len(looks)} groups looked at, expect "
            f"{(1 - settings.confidence) * len(looks):.2g} to be so by chance."
        )
    else:
        yield f"By group of categories ({', '.join(looks)}), none is beyond noise."


def _of_one(name: str, arm: str, found: Mapping[tuple[str, ...], Estimate], settings: Settings) -> Iterator[str]:
    values = [f"{_cell(found[AP, arm, subset, EVERY])} on {subset}" for subset in COLUMNS[:3]]
    gap = found[GAP, arm, BOTH, EVERY]
    yield f"{_capital(name)} of {arm}: {', '.join(values)} images."
    yield f"On contaminated images it is {in_words(gap, settings)} higher than on clean ones: {_judged(gap)}"
    yield (
        "One detector cannot tell images that it has seen from images that are easier, so this gap is no effect of contamination "
        "by itself: compare with a detector that has not seen them."
    )


def _judged(one: Estimate) -> str:
    """The plain sentence's end."""
    if one.value is None or one.low is None or one.high is None:
        return "undefined, so nothing can be said."
    if one.beyond_noise is None:
        return f"a side has fewer than {FEWEST_IMAGES} images, too few to say whether this is noise."
    reach = f"{(one.high - one.low) / 2:.2f}"
    if one.beyond_noise:
        return "beyond noise."
    return f"not beyond noise; an effect of less than about {reach} points could not be told from noise with these images."


def _cell(one: Estimate) -> str:
    if one.value is None:
        return ""
    sign = "" if one.quantity == AP else "+"
    interval = "" if one.low is None or one.high is None else f" [{one.low:{sign}.2f}, {one.high:{sign}.2f}]"
    return f"{one.value:{sign}.2f}{interval}{' *' if one.beyond_noise else ''}"


def _sizes_table(subsets: Sizes) -> str:
    rows = [[subset, group, *size.values()] for subset, groups in subsets.items() for group, size in groups.items()]
    return tabulate(rows, headers=["subset", "categories", "images", "instances", "categories with objects"], tablefmt="pipe")


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]
