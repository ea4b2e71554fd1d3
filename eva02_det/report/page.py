"""One HTML page that stands alone: pictures inside it, the AP table, the facts of the run."""

import base64
import html
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from eva02_det.report.collect import Result, Source, detections, ground_truth, read_image
from eva02_det.report.draw import draw, side_by_side
from eva02_det.utils.errors import UserError
from eva02_det.utils.files import atomic_path, write_text

Table = Mapping[str, Mapping[str, float]]  # task -> metric -> value, as detectron2's evaluators return it

TASKS = {"bbox": "boxes", "segm": "masks"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #1c2126; background: #fff; max-width: 1500px; margin: 2rem auto;
  padding: 0 1.5rem }
table { border-collapse: collapse; margin: 1rem 0; display: block; max-width: 100%; overflow-x: auto }
caption { text-align: left; font-weight: 600 }
th, td { padding: .25rem .8rem; border-bottom: 1px solid #d5dadf; text-align: left } td.value { text-align: right }
td.value { font-variant-numeric: tabular-nums } figure { margin: 2rem 0 } img { max-width: 100%; height: auto; display: block }
figcaption { color: #59626b; font-size: .9rem }
"""


@dataclass(frozen=True)
class Figure:
    """A picture as it goes into the page, already encoded."""

    caption: str
    jpeg: bytes


def visualize(
    source: Source,
    out: str | Path,
    *,
    results: Mapping[int | str, Sequence[Result]] | None = None,
    limit: int = 50,
    score_threshold: float = 0.5,
    table: Table | None = None,
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Draw at most `limit` images, evenly spaced over the data set, or over those of them that the results are about.

    Ground truth stands beside the detections that score at least `score_threshold`. Writes one JPEG per image and
    `index.html`, whose path is returned, into the folder `out`.
    """
    if limit < 1:
        raise UserError(f"a limit of {limit} pictures draws nothing; give at least 1")
    records = source.spread(limit, among=results)
    if not records:
        raise UserError(f"no image of {source.name} is among those of the results; give the data set they were made on")
    figures = []
    for record in records:
        found = None if results is None else results.get(record["image_id"], [])
        name = Path(record["file_name"])
        panels = _panels(source, record, found, score_threshold)
        figures.append(Figure(f"{name.name} (image {record['image_id']})", _jpeg(side_by_side(panels))))
        with atomic_path(Path(out) / f"{record['image_id']}_{name.stem}.jpg") as path:
            path.write_bytes(figures[-1].jpeg)
    shown = {"data set": source.name, "images shown": f"{len(records)} of {len(source.records)}"}
    if results is not None:
        shown["detections shown"] = f"score of at least {100 * score_threshold:g}%"
    return write_page(Path(out) / "index.html", figures, title=source.name, table=table, facts={**shown, **(facts or {})})


def write_page(
    target: str | Path,
    figures: Sequence[Figure],
    *,
    title: str,
    table: Table | None = None,
    facts: Mapping[str, object] | None = None,
) -> Path:
    """Write the page and return its path. Every text is escaped; the page refers to nothing outside itself."""
    parts = [_facts(facts or {}), _ap_table(table or {}), *(_figure(figure) for figure in figures)]
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{html.escape(title)}</title>'
    body = "\n".join([f"<h1>{html.escape(title)}</h1>", *(part for part in parts if part)])
    page = f'<html lang="en"><head>{head}<style>{STYLE}</style></head>\n<body>\n{body}\n</body></html>'
    write_text(target, f"<!doctype html>\n{page}\n")
    return Path(target)


def _panels(source: Source, record: Mapping, found: Sequence[Result] | None, score_threshold: float) -> dict[str, Image.Image]:
    """Ground truth where the data set has it, detections where there are results."""
    image = read_image(record)
    panels = {}
    if source.has_ground_truth() or found is None:
        truth = ground_truth(source, record, image.size)
        panels[f"ground truth: {len(truth.names)} objects"] = draw(image, truth)
    if found is not None:
        objects = detections(source, found, image.size, score_threshold=score_threshold)
        panels[f"detected: {len(objects.names)} objects"] = draw(image, objects)
    return panels


def _jpeg(image: Image.Image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=88)
    return stream.getvalue()


def _figure(figure: Figure) -> str:
    caption, data = html.escape(figure.caption), base64.b64encode(figure.jpeg).decode("ascii")
    return f'<figure><img src="data:image/jpeg;base64,{data}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'


def _facts(facts: Mapping[str, object]) -> str:
    rows = "".join(f"<tr><th>{html.escape(key)}</th><td>{html.escape(str(value))}</td></tr>" for key, value in facts.items())
    return f"<table><caption>Run</caption>{rows}</table>" if rows else ""


def _ap_table(table: Table) -> str:
    """Tasks as rows, metrics as columns; a metric that is not defined (no such objects) shows as a dash."""
    metrics = list(dict.fromkeys(metric for values in table.values() for metric in values))
    if not metrics:
        return ""
    heading = "".join(f"<th>{html.escape(metric)}</th>" for metric in ["", *metrics])
    rows = "".join(
        f"<tr><th>{html.escape(TASKS.get(task, task))}</th>" + "".join(_cell(values.get(metric)) for metric in metrics) + "</tr>"
        for task, values in table.items()
    )
    return f"<table><caption>Average precision, per cent</caption><tr>{heading}</tr>{rows}</table>"


def _cell(value: float | None) -> str:
    defined = value is not None and math.isfinite(value)
    return f'<td class="value">{value:.1f}</td>' if defined else '<td class="value">–</td>'
