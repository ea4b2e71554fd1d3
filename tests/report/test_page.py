"""The page stands alone, shows every picture and escapes every text."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from PIL import Image

from eva02_det.report.collect import coco_files
from eva02_det.report.page import Figure, visualize, write_page
from eva02_det.utils.errors import UserError

HOSTILE = '<script>alert("x")</script> & co'


class Reader(HTMLParser):
    """Collects tags, attributes and text, and checks that tags are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.append(tag)
        self.attributes.extend(attrs)
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def jpeg(color: str) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (8, 6), color).save(stream, format="JPEG")
    return stream.getvalue()


def test_the_page_contains_every_picture_byte_for_byte(tmp_path: Path):
    pictures = [jpeg("red"), jpeg("blue"), jpeg("green")]
    page = write_page(tmp_path / "page.html", [Figure(f"picture {i}", p) for i, p in enumerate(pictures)], title="three")
    reader = Reader(page.read_text())
    sources = [value for key, value in reader.attributes if key == "src"]
    assert [base64.b64decode(source.removeprefix("data:image/jpeg;base64,")) for source in sources] == pictures
    assert [value for key, value in reader.attributes if key == "alt"] == ["picture 0", "picture 1", "picture 2"]


def test_every_text_is_escaped(tmp_path: Path):
    figure = Figure(HOSTILE, jpeg("red"))
    table = {HOSTILE: {HOSTILE: 1.0}}
    page = write_page(tmp_path / "page.html", [figure], title=HOSTILE, table=table, facts={HOSTILE: HOSTILE})
    reader = Reader(page.read_text())
    assert "script" not in reader.tags
    assert reader.text.count(HOSTILE) == 7  # title, heading, fact and value, task and metric, caption


def test_the_page_refers_to_nothing_outside_itself(tmp_path: Path):
    page = write_page(tmp_path / "page.html", [Figure("one", jpeg("red"))], title="alone", facts={"steps": 3})
    text = page.read_text()
    reader = Reader(text)
    assert not {"link", "script", "iframe", "object", "base"} & set(reader.tags)
    assert all(value.startswith("data:") for key, value in reader.attributes if key in ("src", "href", "srcset"))
    assert not re.search(r"https?:|url\(|@import", text)


def test_the_table_shows_one_decimal_and_a_dash_for_what_is_not_defined(tmp_path: Path):
    table = {"bbox": {"AP": 61.26, "APs": float("nan")}, "segm": {"AP": 50.0}}
    text = write_page(tmp_path / "page.html", [], title="t", table=table, facts={"steps": 1200}).read_text()
    rows = [re.findall(r"<t[hd][^>]*>([^<]*)<", row) for row in re.findall(r"<tr>.*?</tr>", text)]
    assert rows == [["steps", "1200"], ["", "AP", "APs"], ["boxes", "61.3", "–"], ["masks", "50.0", "–"]]


def test_a_page_without_table_or_facts_has_no_empty_table(tmp_path: Path):
    assert "table" not in Reader(write_page(tmp_path / "page.html", [], title="t").read_text()).tags


def test_visualize_writes_one_picture_per_image_and_a_page_of_them_all(dataset: Path, results: dict, tmp_path: Path):
    source = coco_files(dataset / "annotations.json", dataset / "images")
    out = tmp_path / "out"
    page = visualize(source, out, results=results, table={"bbox": {"AP": 12.3}}, facts={"seed": 4})
    assert sorted(path.name for path in out.iterdir()) == ["5_one.jpg", "9_two.jpg", "index.html"]
    embedded = {value for key, value in Reader(page.read_text()).attributes if key == "src"}
    written = {base64.b64encode(path.read_bytes()).decode() for path in out.glob("*.jpg")}
    assert {source.split(",")[1] for source in embedded} == written
    assert "12.3" in page.read_text()


def test_ground_truth_stands_beside_the_detections(dataset: Path, results: dict, tmp_path: Path):
    source = coco_files(dataset / "annotations.json", dataset / "images")
    visualize(source, tmp_path / "truth")
    visualize(source, tmp_path / "both", results=results)
    alone, both = (Image.open(tmp_path / name / "5_one.jpg") for name in ("truth", "both"))
    assert both.size == (2 * alone.width + 8, alone.height)


def test_images_without_annotations_show_detections_alone(dataset: Path, results: dict, tmp_path: Path):
    source = coco_files(dataset / "annotations.json", dataset / "images")
    for record in source.records:
        record.pop("annotations")  # as in test-dev
    visualize(source, tmp_path / "out", results=results)
    with Image.open(tmp_path / "out" / "5_one.jpg") as image:
        assert image.width == 560


def test_only_images_of_the_results_are_drawn_up_to_the_limit(dataset: Path, results: dict, tmp_path: Path):
    source = coco_files(dataset / "annotations.json", dataset / "images")
    visualize(source, tmp_path / "some", results={9: results[9]})
    visualize(source, tmp_path / "few", limit=1)
    assert [path.name for path in (tmp_path / "some").glob("*.jpg")] == ["9_two.jpg"]
    assert len(list((tmp_path / "few").glob("*.jpg"))) == 1


def test_requests_that_would_draw_nothing_are_refused(dataset: Path, tmp_path: Path):
    source = coco_files(dataset / "annotations.json", dataset / "images")
    with pytest.raises(UserError, match="no image"):
        visualize(source, tmp_path / "out", results={1: []})
    with pytest.raises(UserError, match="limit of 0"):
        visualize(source, tmp_path / "out", limit=0)
    assert not (tmp_path / "out").exists()
