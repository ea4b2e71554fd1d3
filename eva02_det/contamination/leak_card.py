"""The leak card: what was compared with which evaluation sets and what was found, in two files that travel with the weights."""

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eva02_det.contamination.record import ANY, Record
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_json, write_text

FORMAT = 1
JSON_FILE, PAGE_FILE = "leak_card.json", "leak_card.md"
README = "README.md"
HEADING = "## Leaked evaluation images"
RECALL = "what no stage recognises counts as not found (docs/contamination.md tells what does): 0 is no proof of absence"
_KEYS = {"evaluation", "corpora", "method", "pairs", "affected", "image_ids", "limits"}  # of a comparison


def write(records: Record | Iterable[Record], out: str | Path) -> Path:
    """Write leak_card.json and leak_card.md for one report, or several of one model's corpora; the path of the first."""
    return save(card(records), out)


def card(records: Record | Iterable[Record]) -> dict[str, Any]:
    """Plain JSON. Nothing in it depends on the day, the machine or its folders: equal searches give equal cards."""
    given = [records] if isinstance(records, Record) else list(records)
    return {"format": FORMAT, "comparisons": [_comparison(record.data) for record in given]}


def save(content: Mapping[str, Any], out: str | Path) -> Path:
    """Write a card's two files."""
    write_text(Path(out) / PAGE_FILE, page(content))
    write_json(Path(out) / JSON_FILE, content, indent=1)
    return Path(out) / JSON_FILE


def read(file: str | Path) -> dict[str, Any]:
    """A card, from its JSON file or the folder it lies in; UserError where it is none."""
    path = Path(file) / JSON_FILE if Path(file).is_dir() else Path(file)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(
            f"there is no leak card {path} ({error.strerror}); give one that tools/find_duplicates.py wrote"
        ) from error
    except ValueError as error:
        raise UserError(f"{path}: not valid JSON ({error}); write it again with tools/find_duplicates.py") from error
    known = isinstance(content, dict) and content.get("format") == FORMAT and isinstance(content.get("comparisons"), list)
    if not known or any(not isinstance(one, dict) or _KEYS - one.keys() for one in content["comparisons"]):
        raise UserError(f"{path} is no leak card of format {FORMAT}; give the {JSON_FILE} that tools/find_duplicates.py wrote")
    return content


def attach(files: Sequence[str | Path], folder: str | Path) -> Path | None:
    """Put the cards, joined, into a model folder and name them in its README.md; without any, remove an earlier export's."""
    target = Path(folder)
    for name in (JSON_FILE, PAGE_FILE):
        (target / name).unlink(missing_ok=True)
    if not files:
        return None
    content = {"format": FORMAT, "comparisons": [one for file in files for one in read(file)["comparisons"]]}
    path = save(content, target)
    readme = target / README
    before = readme.read_text(encoding="utf-8").partition(f"\n{HEADING}")[0].rstrip() + "\n\n" if readme.is_file() else ""
    facts = "\n".join(f"- {sentence}" for one in content["comparisons"] for sentence in statements(one))
    more = f"Counts, method, image ids and what was not compared: [{PAGE_FILE}]({PAGE_FILE}), `{JSON_FILE}`."
    write_text(readme, f"{before}{HEADING}\n{facts}\n\n{more}\n")
    return path


def statements(comparison: Mapping[str, Any]) -> list[str]:
    """A comparison's outcome, one sentence for each corpus."""
    evaluation = comparison["evaluation"]["name"]
    return [
        f"{_plain(name)} holds {_of(numbers, 'images')} images of {_plain(evaluation)}, with {_of(numbers, 'instances')} objects."
        for name, numbers in comparison["affected"].items()
        if name != ANY
    ]


def page(content: Mapping[str, Any]) -> str:
    """The card as Markdown."""
    parts = ["# Leak card", "", "Which images of evaluation sets were found in the data that this model may have seen.", ""]
    for one in content["comparisons"]:
        parts += [*_page_of(one), ""]
    return "\n".join(parts).rstrip() + "\n"


def _comparison(data: Mapping[str, Any]) -> dict[str, Any]:
    settings, pairs = dict(data["settings"]), data["pairs"]
    versions = settings.pop("versions", {})
    if str(embedder := settings.get("embedder")).startswith(("/", ".", "~")):
        settings["embedder"] = _last_name(str(embedder))
    sure = [pair for pair in pairs if pair["confirmed"]]
    return {
        "evaluation": {key: data["evaluation"][key] for key in ("name", "images", "instances", "digest")},
        "corpora": [_corpus(one) for one in data["corpora"]],
        "method": {**settings, "versions": versions},
        "pairs": {
            "confirmed": len(sure),
            "not_confirmed": len(pairs) - len(sure),
            "confirmed_found_by": dict(sorted(Counter(way for pair in sure for way in pair["found_by"]).items())),
        },
        "affected": data["affected"],
        "image_ids": {
            name: sorted({pair["image_id"] for pair in sure if name in (pair["corpus"], ANY)}) for name in data["affected"]
        },
        "limits": _limits(data),
    }


def _corpus(corpus: Mapping[str, Any]) -> dict[str, Any]:
    """Names of files alone: folders of one's own machine tell others nothing."""
    kept = {key: corpus[key] for key in ("name", "digest", "images", "read", "unreadable") if key in corpus}
    return {"source": _last_name(str(corpus["spec"])), **kept}


def _limits(data: Mapping[str, Any]) -> list[str]:
    """What the search could not see."""
    found = []
    for corpus in data["corpora"]:
        name, images, read, unreadable = (corpus[key] for key in ("name", "images", "read", "unreadable"))
        if not read + unreadable:
            found.append(f"no image of {name} was read: copies under other names and ids are unseen")
        elif read + unreadable < images:
            found.append(f"only {read + unreadable} of {images} images of {name} were read, the others compared by name and id")
        if unreadable:
            found.append(f"{unreadable} of {images} images of {name} could not be read")
    if lost := data["evaluation"].get("unreadable"):
        found.append(f"{lost} images of {data['evaluation']['name']} could not be read")
    if not {"fingerprint", "embedding"} & set(data["settings"].get("stages", ())):
        found.append("changed copies (resized, cropped, encoded anew) were not looked for, exact ones and names alone")
    if doubtful := sum(not pair["confirmed"] for pair in data["pairs"]):
        found.append(f"{doubtful} pairs are candidates that were not confirmed and do not count")
    return found


def _page_of(one: Mapping[str, Any]) -> list[str]:
    evaluation, method = one["evaluation"], dict(one["method"])
    versions = method.pop("versions", {})
    rows = [
        f"| {'**all**' if name == ANY else _plain(name)} | {_of(numbers, 'images')} | {_of(numbers, 'instances')} |"
        for name, numbers in one["affected"].items()
    ]
    groups = [
        f"| {'**all**' if name == ANY else _plain(name)} | {label} | {_of(numbers, 'images')} | {_of(numbers, 'instances')} |"
        for name, affected in one["affected"].items()
        for label, numbers in (*affected.get("splits", {}).items(), *affected.get("frequency", {}).items())
    ]
    corpora = [
        f"| {_plain(c['name'])} | {_plain(c['source'])} | {c['images']:,} | {c['read']:,} | {c['unreadable']:,} | "
        f"`{_plain(c.get('digest', ''))[:16]}` |"
        for c in one["corpora"]
    ]
    steps = [f"- {key.replace('_', ' ')}: {_words(value)}" for key, value in method.items() if value is not None]
    limits = [f"- {_plain(limit)}" for limit in one["limits"]]
    return [
        f"## {_plain(evaluation['name'])}",
        f"{evaluation['images']:,} images, {evaluation['instances']:,} objects, digest `{_plain(evaluation['digest'])}`. "
        f"{one['pairs']['confirmed']:,} confirmed pairs, {one['pairs']['not_confirmed']:,} not confirmed.",
        "",
        *_table("found in | images | objects", rows),
        *_table("found in | part | images | objects", groups),
        *_table("compared corpus | source | images | read | unreadable | digest", corpora),
        *["Method:", "", *steps, f"- versions: {_words(versions)}", ""],
        *["Not seen:", "", *limits, f"- {RECALL}"],
    ]


def _table(head: str, rows: Sequence[str]) -> list[str]:
    """Lines of Markdown; none where there are no rows."""
    return [f"| {head} |", "|" + " --- |" * (head.count("|") + 1), *rows, ""] if rows else []


def _of(numbers: Mapping[str, Any], what: str) -> str:
    part, whole = numbers[what], numbers[f"of_{what}"]
    return f"{part:,} of {whole:,}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def _last_name(spec: str) -> str:
    """Annotations and images of a spec FILE@IMAGES, each without the folders above it."""
    return "@".join(part.rstrip("/").rpartition("/")[2] or part for part in spec.split("@"))


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{_plain(key)} {_words(item)}" for key, item in value.items())
    return ", ".join(map(_plain, value)) if isinstance(value, list | tuple) else _plain(value)


def _plain(value: Any) -> str:
    """Text that Markdown leaves alone: on one line, without cells, marks or HTML in it."""
    text = " ".join(str(value).split())
    for mark in "\\`*[]<>|":
        text = text.replace(mark, f"\\{mark}" if mark in "\\*[]|" else {"`": "'", "<": "&lt;", ">": "&gt;"}[mark])
    return text
