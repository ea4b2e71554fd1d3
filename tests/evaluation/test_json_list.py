"""A JSON list is read element by element, whatever the pieces it comes in."""

import io
import json

import pytest

from eva02_det.evaluation import json_list
from eva02_det.evaluation.json_list import elements

CONTENT = [{"a": 1.5, "b": [1, {"c": "}],["}]}, {}, {"text": 'q"uote\\'}, 12345, "x", [], None]


@pytest.mark.parametrize("chunk", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
def test_the_elements_are_those_of_the_json_module_for_any_size_of_piece(monkeypatch, chunk: int, indent):
    monkeypatch.setattr(json_list, "CHUNK", chunk)
    content = [one for one in CONTENT if one != 12345]  # a number may go on in the next piece; no entry is one
    assert list(elements(io.StringIO(json.dumps(content, indent=indent) + "\n"))) == content
    assert list(elements(io.StringIO(" [ ] "))) == []


def test_a_name_that_comes_twice_is_known():
    outer, plain = elements(io.StringIO('[{"a": 1, "b": {"c": 1, "c": 2}, "a": 3}, {"a": 1}]'))
    assert (outer.repeated, outer["b"].repeated, plain.repeated) == (("a",), ("c",), ())
    assert outer == {"a": 3, "b": {"c": 2}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": 1}', "does not begin with ["),
        ("", "does not begin with ["),
        ('[{"a": 1}', "ends before the list does"),
        ('[{"a": 1},', "ends before the list does"),
        ('[{"a": 1}, {"a"', "ends in the middle"),
        ('[{"a": 1} {"a": 2}]', "'{' stands where"),
        ('[{"a": 1, }]', "Expecting property name|Illegal trailing comma"),
        ('[{"a": 1}] x', "something follows"),
    ],
)
def test_what_is_no_list_is_said_in_words(text: str, reason: str):
    with pytest.raises(ValueError, match=reason.replace("[", r"\[")):
        list(elements(io.StringIO(text)))


def test_a_broken_element_ends_the_reading_before_the_whole_file_is_in_memory(monkeypatch):
    monkeypatch.setattr(json_list, "CHUNK", 100)
    monkeypatch.setattr(json_list, "LONGEST", 1000)
    stream = io.StringIO('[{"a": ' + "oops " * 10_000 + "}]")
    with pytest.raises(ValueError, match="Expecting value after"):
        list(elements(stream))
    assert stream.tell() < 2000
