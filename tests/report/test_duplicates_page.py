"""The page of duplicates, read as text and opened in a real browser."""

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eva02_det.report.duplicates_page import write_page
from eva02_det.report.thumbnails import thumbnail
from eva02_det.utils.errors import UserError
from tests.report import chromium
from tests.report.found_duplicates import CORPORA, HOSTILE, Pictures, encoded, picture, record

in_browser = pytest.mark.skipif(chromium.BROWSER is None, reason="needs Chromium (Debian: apt-get install chromium)")
THIN = "\u2009"


class Elements(HTMLParser):
    """Tags with their attributes, and the text of the page."""

    def __init__(self, page: Path | str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict]] = []
        self.text = ""
        self.feed(page if isinstance(page, str) else page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data + " "

    def of(self, tag: str) -> list[dict]:
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    return Pictures(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, pictures: Pictures) -> Path:
    return write_page(record(), pictures.evaluation_file, pictures.corpus_bytes, tmp_path_factory.mktemp("page"))


def pairs_of(elements: Elements) -> list[dict]:
    return elements.of("article")


def test_every_count_of_the_record_is_on_the_page(page: Path):
    text = re.sub(r"\s+", " ", Elements(page).text)
    assert "12 of 40 (30.0 %) images of lvis_v1_val are in these corpora" in text
    assert "64 of 200 (32.0 %) annotated objects" in text
    assert "1 more has candidates that nothing confirmed" in text
    for numbers in record()["affected"].values():
        assert f"{numbers['images']} of 40" in text
        assert f"{numbers['instances']} of 200" in text
        for part in (*numbers["splits"].values(), *numbers["frequency"].values()):
            assert f"{part['images']} of {part['of_images']}" in text
    for word in ("train2017", "val2017", "rare", "common", "frequent", "12 345", "12 340 read, 5 unreadable"):
        assert word in text.replace(THIN, " ")
    assert "names and ids alone" in text
    assert "12 pairs, 11 confirmed" in text
    assert "max bits 10" in text
    assert "pillow 13.0.0" in text


def test_each_pair_stands_with_both_pictures_and_how_it_was_found(page: Path):
    elements = Elements(page)
    assert len(pairs_of(elements)) == 14
    assert len(elements.of("img")) == 14 + 12  # the pictures of the second corpus are not at hand
    assert [one["class"] for one in pairs_of(elements)].count("doubtful") == 1
    for said in ("not at hand", "270°", "mirrored", "a part of it, cropped", "not confirmed", "the pixels <differ>", "85 %"):
        assert said in elements.text
    (window,) = (one for one in elements.of("span") if one.get("class") == "window")
    assert window["style"] == "left: 25.0%; top: 0.0%; width: 50.0%; height: 50.0%"


def test_the_page_refers_to_nothing_and_runs_nothing(page: Path):
    elements = Elements(page)
    assert {one["src"].partition(",")[0] for one in elements.of("img")} == {"data:image/jpeg;base64"}
    assert not {"script", "link", "iframe", "object", "base"} & {tag for tag, _ in elements.tags}
    assert not [name for _, attributes in elements.tags for name in attributes if name.startswith("on")]
    assert elements.of("meta")[1]["content"].startswith("default-src 'none'")


def test_names_are_text_whatever_they_hold(page: Path):
    elements = Elements(page)
    assert HOSTILE in elements.text
    assert "web <b>crawl</b>" in elements.text
    assert not elements.of("b")
    assert any(HOSTILE in one["alt"] for one in elements.of("img"))


def test_only_the_first_pairs_of_a_corpus_are_shown_confirmed_ones_first_and_that_is_said(tmp_path: Path, pictures: Pictures):
    page = write_page(record(), pictures.evaluation_file, pictures.corpus_bytes, tmp_path, pairs_per_corpus=5)
    elements = Elements(page)
    assert len(pairs_of(elements)) == 5 + 2
    assert {one["class"] for one in pairs_of(elements)} == {"sure"}
    assert "12 pairs, 11 confirmed; the first 5 are shown, all are in pairs.csv" in elements.text
    assert elements.text.count("are shown, all are in") == 1
    with pytest.raises(UserError, match="cannot be shown; give 0 or more"):
        write_page(record(), pictures.evaluation_file, pictures.corpus_bytes, tmp_path, pairs_per_corpus=-1)


def test_the_same_record_gives_the_same_page(page: Path, tmp_path: Path, pictures: Pictures):
    again = write_page(record(), pictures.evaluation_file, pictures.corpus_bytes, tmp_path)
    assert again.read_bytes() == page.read_bytes()


def test_a_search_that_found_nothing_has_a_page_too(tmp_path: Path):
    nothing = record() | {"pairs": [], "affected": {}, "corpora": []}
    text = Elements(write_page(nothing, Path, lambda corpus, name: None, tmp_path)).text
    assert "lvis_v1_val found in no corpus" in text


def test_a_thumbnail_is_small_and_upright_and_a_damaged_file_is_none(tmp_path: Path):
    turned = Image.new("RGB", (1200, 600), "red")
    exif = Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    turned.save(tmp_path / "turned.jpg", exif=exif)
    uri = thumbnail(tmp_path / "turned.jpg", 100)
    with Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))) as small:
        assert (small.size, small.format) == ((50, 100), "JPEG")
    assert thumbnail(encoded(picture(1))[:200]) is None
    assert thumbnail(b"no picture") is None
    assert thumbnail(tmp_path / "missing.jpg") is None
    assert thumbnail(None) is None
    assert thumbnail(encoded(Image.new("RGBA", (9, 9)), "PNG")).startswith("data:image/jpeg")


@in_browser
def test_a_browser_shows_every_pair_and_decodes_every_picture(page: Path, tmp_path: Path):
    seen = chromium.seen(page, tmp_path / "profile")
    assert len(seen["images"]) == 26
    assert all(complete and width > 0 and height > 0 for complete, width, height in seen["images"])
    assert {tuple(size) for _, *size in seen["images"]} == {(300, 225), (225, 300), (160, 120)}
    assert seen["shown"] == 14
    assert seen["width"][0] <= seen["width"][1]  # nothing sticks out to the side
    assert seen["loaded"] == []


@in_browser
def test_the_browsers_document_is_that_of_the_file_and_no_name_became_code(page: Path, tmp_path: Path):
    elements = Elements(chromium.dom(page, tmp_path / "profile"))
    assert len(pairs_of(elements)) == 14
    assert len(elements.of("section")) == 2
    assert not {"script", "b"} & {tag for tag, _ in elements.tags}
    assert f"Images of lvis_v1_val found in {CORPORA[0]} and {CORPORA[1]}" in elements.text  # not the title that HOSTILE sets


@in_browser
@pytest.mark.parametrize(("choice", "shown"), [("only1", 2), ("sure", 13)])
def test_choices_hide_pairs_without_a_script_of_ours(page: Path, tmp_path: Path, choice: str, shown: int):
    assert chromium.seen(page, tmp_path / "profile", checked=choice)["shown"] == shown


@in_browser
def test_the_screenshot_shows_text_pictures_and_bars(page: Path, tmp_path: Path):
    with Image.open(chromium.screenshot(page, tmp_path / "profile", tmp_path / "page.png", (1280, 2400))) as shot:
        pixels = np.asarray(shot.convert("RGB")).astype(int)
    assert pixels.shape == (2400, 1280, 3)
    colours = len(np.unique(pixels.reshape(-1, 3), axis=0))
    assert colours > 3000  # pictures are there; text alone has a few hundred
    background = pixels[0, 0]
    inked = (np.abs(pixels - background).sum(axis=2) > 60).mean()
    assert 0.03 < inked < 0.6
