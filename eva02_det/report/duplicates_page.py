"""What a search for duplicates found as one HTML page that stands alone: numbers, and the pairs of pictures side by side."""

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from eva02_det.report.thumbnails import thumbnail
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import write_text

ANY = "any"  # in `affected`: of all corpora together
PAIRS_PER_CORPUS = 60  # of photographs, some 30 kB each
FREQUENCIES = ("rare", "common", "frequent")
PAGE = "index.html"

# nothing is loaded and nothing runs, whatever a name in the record says
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
STYLE = """
:root { color-scheme: light dark; --ink: #1c2126; --soft: #59626b; --line: #d5dadf; --paper: #fff; --bar: #c0392b;
  --chip: #eef1f4; --good: #1e7d45 }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e8ec; --soft: #9aa4ae; --line: #39424b; --paper: #15191d; --bar: #e0695c;
  --chip: #262d34; --good: #63c98a } }
body { font: 16px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 1180px; margin: 2rem auto;
  padding: 0 1.5rem }
h1 { line-height: 1.2; margin-bottom: .3rem } h2 { margin-top: 2.5rem } .soft { color: var(--soft) } .lead { font-size: 1.15rem }
table { border-collapse: collapse; margin: 1rem 0 } caption { text-align: left; font-weight: 600; padding-bottom: .3rem }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { font-weight: 600 } td { overflow-wrap: anywhere; font-variant-numeric: tabular-nums } .count { white-space: nowrap }
.bar { display: block; width: 9rem; height: 5px; background: var(--chip); border-radius: 3px; overflow: hidden;
  margin-top: .2rem }
.bar i { display: block; height: 100%; background: var(--bar) }
label { margin-right: 1.2rem }
article, .heads { display: grid; grid-template-columns: 200px 200px 1fr; gap: 1rem; padding: 1rem 0;
  border-bottom: 1px solid var(--line) } .heads { padding: .2rem 0; font-size: .85rem; font-weight: 600 }
.tables { display: flex; flex-wrap: wrap; gap: 0 3.5rem; align-items: start }
figure { margin: 0; min-width: 0 } figcaption { font-size: .8rem; color: var(--soft); overflow-wrap: anywhere; margin-top: .3rem }
.picture { position: relative; display: inline-block; line-height: 0 } .picture img { max-width: 200px; max-height: 200px }
.window { position: absolute; outline: 2px solid var(--bar); box-shadow: 0 0 0 1px #fff }
.missing { display: grid; place-items: center; height: 110px; border: 1px dashed var(--line); color: var(--soft);
  font-size: .85rem; text-align: center }
.chip { display: inline-block; background: var(--chip); border-radius: 4px; padding: 0 .5rem; margin: 0 .3rem .2rem 0;
  font-size: .85rem } .yes { color: var(--good); font-weight: 600 } .no { color: var(--bar); font-weight: 600 }
article p { margin: .1rem 0 .5rem } dl { display: grid; grid-template-columns: max-content 1fr; gap: 0 .8rem; margin: 0;
  font-size: .85rem } dt { color: var(--soft) } dd { margin: 0; overflow-wrap: anywhere }
@media (max-width: 700px) { article, .heads { grid-template-columns: 1fr 1fr } article > div { grid-column: 1 / -1 } }
"""

EvaluationFile = Callable[[int], Path]
CorpusBytes = Callable[[str, str], bytes | None]


def write_page(
    record: Mapping[str, Any],
    evaluation_file: EvaluationFile,
    corpus_bytes: CorpusBytes,
    out: str | Path,
    *,
    pairs_per_corpus: int = PAIRS_PER_CORPUS,
) -> Path:
    """Write `<out>/index.html` and return its path.

    record: plain JSON of a report (docs/contamination.md). evaluation_file: path of an evaluation image by id; corpus_bytes:
    the encoded image by corpus and name, None where it is not at hand. Of each corpus the first pairs are shown, confirmed ones
    first. Pictures are inside the page, which refers to nothing and runs nothing; every text is escaped.
    """
    if pairs_per_corpus < 0:
        raise UserError(f"{pairs_per_corpus} pairs of each corpus cannot be shown; give 0 or more")
    names = [corpus["name"] for corpus in record["corpora"]]
    title = f"Images of {record['evaluation']['name']} found in {_listed(names)}"
    shown = {name: _first(record["pairs"], name, pairs_per_corpus) for name in names}
    sections = [
        _section(number, name, record["pairs"], shown[name], evaluation_file, corpus_bytes) for number, name in enumerate(names)
    ]
    body = [
        f"<h1>{_text(title)}</h1>",
        _lead(record),
        _beside(_affected(record["affected"], names), _splits(record["affected"], names)),
        _frequencies(record["affected"], names),
        _beside(_corpora(record["corpora"]), _settings(record["settings"], record["evaluation"])),
        "<h2>Pairs</h2>",
        *_filters(names),
        *sections,
    ]
    head = (
        f'<meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        f'<meta name="viewport" content="width=device-width"><title>{_text(title)}</title>'
    )
    target, text = Path(out) / PAGE, "\n".join(part for part in body if part)
    style = STYLE + _filter_rules(len(names))
    write_text(
        target, f'<!doctype html>\n<html lang="en"><head>{head}<style>{style}</style></head>\n<body>\n{text}\n</body></html>\n'
    )
    return target


def _lead(record: Mapping[str, Any]) -> str:
    """The answer in a sentence or two."""
    numbers, evaluation = record["affected"].get(ANY), record["evaluation"]
    if numbers is None:
        return ""
    rest = numbers.get("unconfirmed_images", 0)
    doubt = f" {_number(rest)} more {'have' if rest > 1 else 'has'} candidates that nothing confirmed." if rest else ""
    return (
        f'<p class="lead">{_of(numbers, "images")} images of {_text(evaluation["name"])} are in these corpora, '
        f"and with them {_of(numbers, 'instances')} annotated objects.{doubt}</p>"
    )


def _affected(affected: Mapping[str, Any], names: Sequence[str]) -> str:
    rows = [
        [_corpus_name(name), _cell(affected[name], "images"), _cell(affected[name], "instances")]
        for name in (*names, ANY)
        if name in affected
    ]
    return _table("Affected", ["corpus", "images", "objects"], rows)


def _splits(affected: Mapping[str, Any], names: Sequence[str]) -> str:
    splits = sorted({split for numbers in affected.values() for split in numbers.get("splits", {})})
    rows = [
        [_corpus_name(name), *(_cell(affected[name]["splits"].get(split), "images") for split in splits)]
        for name in (*names, ANY)
        if splits and name in affected
    ]
    return _table("Images, by the part they come from", ["corpus", *map(_text, splits)], rows)


def _frequencies(affected: Mapping[str, Any], names: Sequence[str]) -> str:
    rows = []
    for name in (*names, ANY):
        groups = affected.get(name, {}).get("frequency", {})
        for group in (group for group in FREQUENCIES if group in groups):
            numbers = groups[group]
            some = _number(numbers["categories"])
            some += f" of {_number(numbers['of_categories'])}" if "of_categories" in numbers else ""
            first = _corpus_name(name) if group == next(iter(groups)) else ""
            rows.append([first, group, some, _cell(numbers, "images"), _cell(numbers, "instances")])
    head = ["corpus", "categories", "affected", "images that show one", "their objects"]
    return _table("By frequency of the categories in training", head, rows)


def _beside(*tables: str) -> str:
    return f'<div class="tables">{"".join(tables)}</div>'


def _corpora(corpora: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for corpus in corpora:
        how = f"{_number(corpus['read'])} read, {_number(corpus['unreadable'])} unreadable"
        how = how if corpus["read"] or corpus["unreadable"] else "names and ids alone, no image was read"
        rows.append([_text(corpus["name"]), _text(corpus["spec"]), _number(corpus["images"]), how])
    return _table("Corpora", ["name", "what it is", "images", "compared"], rows)


def _settings(settings: Mapping[str, Any], evaluation: Mapping[str, Any]) -> str:
    facts = {"evaluation set": evaluation["name"], "its digest": evaluation["digest"], **settings}
    rows = [[_text(key.replace("_", " ")), _text(_words(value))] for key, value in facts.items() if value is not None]
    return _table("How it was searched", [], rows)


def _filters(names: Sequence[str]) -> list[str]:
    """Choices that style rules carry out: no script."""
    if not names:
        return []
    boxes = ['<input type="radio" name="corpus" id="all" checked><label for="all">all corpora</label>']
    boxes += [
        f'<input type="radio" name="corpus" id="only{number}"><label for="only{number}">{_text(name)}</label>'
        for number, name in enumerate(names)
    ]
    boxes.append('<input type="checkbox" id="sure"><label for="sure">confirmed ones alone</label>')
    return [*boxes] if len(names) > 1 else boxes[-1:]


def _filter_rules(corpora: int) -> str:
    rules = [f"#only{number}:checked ~ section:not(.c{number}) {{ display: none }}" for number in range(corpora)]
    return "\n".join([*rules, "#sure:checked ~ section article.doubtful { display: none }", ""])


def _first(pairs: Iterable[Mapping[str, Any]], corpus: str, limit: int) -> list[Mapping[str, Any]]:
    mine = [pair for pair in pairs if pair["corpus"] == corpus]
    return sorted(mine, key=lambda pair: not pair["confirmed"])[:limit]


def _section(
    number: int,
    name: str,
    pairs: Iterable[Mapping[str, Any]],
    shown: Sequence[Mapping[str, Any]],
    evaluation_file: EvaluationFile,
    corpus_bytes: CorpusBytes,
) -> str:
    mine = [pair for pair in pairs if pair["corpus"] == name]
    sure = sum(pair["confirmed"] for pair in mine)
    counts = f"{_number(len(mine))} pairs, {_number(sure)} confirmed"
    cut = f"; the first {_number(len(shown))} are shown, all are in pairs.csv" if len(shown) < len(mine) else ""
    articles = "\n".join(_pair(pair, evaluation_file, corpus_bytes) for pair in shown)
    head = '<div class="heads"><span>evaluation image</span><span>image of the corpus</span></div>' if shown else ""
    return f'<section class="c{number}"><h3>{_text(name)}</h3><p class="soft">{counts}{cut}</p>{head}\n{articles}\n</section>'


def _pair(pair: Mapping[str, Any], evaluation_file: EvaluationFile, corpus_bytes: CorpusBytes) -> str:
    left = _figure(
        thumbnail(evaluation_file(pair["image_id"])), f"image {pair['image_id']}, {pair['file_name']}", pair.get("window")
    )
    right = _figure(thumbnail(corpus_bytes(pair["corpus"], pair["corpus_image"])), f"{pair['corpus']}: {pair['corpus_image']}")
    verdict = '<span class="yes">confirmed</span>' if pair["confirmed"] else '<span class="no">not confirmed</span>'
    chips = "".join(f'<span class="chip">{_text(one)}</span>' for one in pair["found_by"])
    facts = {
        "differing bits": pair["bits"],
        "similarity": _rounded(pair["similarity"]),
        "covers of the image": _percent(pair["coverage"]),
        "mirrored": "yes" if pair["flip"] else None,
        "turned": f"{90 * pair['quarter_turns']}°" if pair["quarter_turns"] else None,
    }
    listed = "".join(f"<dt>{key}</dt><dd>{_text(value)}</dd>" for key, value in facts.items() if value is not None)
    return (
        f'<article class="{"sure" if pair["confirmed"] else "doubtful"}">{left}{right}'
        f"<div><p>{verdict}: {_text(pair['reason'])}</p><p>{chips}</p><dl>{listed}</dl></div></article>"
    )


def _figure(picture: str | None, caption: str, window: Sequence[float] | None = None) -> str:
    """window: x0, y0, x1, y1 in 0..1, outlined where it is not the whole picture."""
    if picture is None:
        return f'<figure><div class="missing">not at hand</div><figcaption>{_text(caption)}</figcaption></figure>'
    frame = ""
    if window is not None and tuple(window) != (0, 0, 1, 1):
        left, top, right, bottom = (100 * float(value) for value in window)
        place = f"left: {left:.1f}%; top: {top:.1f}%; width: {right - left:.1f}%; height: {bottom - top:.1f}%"
        frame = f'<span class="window" style="{place}"></span>'
    image = f'<span class="picture"><img src="{picture}" alt="{_text(caption)}">{frame}</span>'
    return f"<figure>{image}<figcaption>{_text(caption)}</figcaption></figure>"


def _table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Cells are HTML already; nothing where there are no rows."""
    if not rows:
        return ""
    heading = "<tr>" + "".join(f"<th>{one}</th>" for one in head) + "</tr>" if head else ""
    body = "\n".join(f"<tr><th>{row[0]}</th>" + "".join(f"<td>{cell}</td>" for cell in row[1:]) + "</tr>" for row in rows)
    return f"<table><caption>{caption}</caption>{heading}\n{body}</table>"


def _cell(numbers: Mapping[str, Any] | None, what: str) -> str:
    """n of m, the share, and a bar of it."""
    if numbers is None:
        return "–"
    share = 100 * numbers[what] / numbers[f"of_{what}"] if numbers[f"of_{what}"] else 0.0
    return f'<span class="count">{_of(numbers, what)}</span><span class="bar"><i style="width: {share:.1f}%"></i></span>'


def _of(numbers: Mapping[str, Any], what: str) -> str:
    part, whole = numbers[what], numbers[f"of_{what}"]
    return f"{_number(part)} of {_number(whole)}" + (f" ({100 * part / whole:.1f} %)" if whole else "")


def _corpus_name(name: str) -> str:
    return "all together" if name == ANY else _text(name)


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]])) or "no corpus"


def _number(value: int) -> str:
    return f"{value:,}".replace(",", "\u2009")


def _rounded(value: float | None) -> str | None:
    return None if value is None else f"{value:.3f}"


def _percent(value: float | None) -> str | None:
    return None if value is None else f"{100 * value:.0f} %"


def _words(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {_words(item)}" for key, item in value.items())
    return ", ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _text(value: Any) -> str:
    return html.escape(str(value))
