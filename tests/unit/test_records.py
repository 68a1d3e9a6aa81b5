"""Records become plain data and are read back by their type hints."""

from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import LARGEST_NUMBER, Fields
from llmpq_sim.core.records import (
    Codec,
    Finite,
    Fraction,
    Header,
    Key,
    Natural,
    NotNegative,
    Place,
    bounded,
    columns,
    from_dict,
    keys,
    to_dict,
)
from llmpq_sim.io.files import json_text, parse_json


def lower_case(name: str, where: str) -> None:
    """Refuse names in capitals."""
    if name != name.lower():
        raise InputError(f"{where}: expected small letters, got {name!r}")


@dataclass(frozen=True)
class Spot:
    """A point that has a time."""

    at_s: NotNegative
    name: str = "spot"


@dataclass(frozen=True)
class Size:
    """What stands in the mapping around it."""

    rows: Annotated[int, Key("row_count")]
    share: Fraction


@dataclass(frozen=True, kw_only=True)
class Everything:
    """One field of each kind."""

    header: ClassVar = Header("test/everything", 2)

    kind: Literal["plain", "odd"] = "plain"
    hidden: Annotated[str, Place.ABSENT] = "given"
    flag: bool
    level: Finite
    last: Annotated[Spot, Place.LAST]
    size: Annotated[Size, Place.INLINE]
    limit: float | None
    bounded: Annotated[float, bounded(1, 10)]
    usual: Annotated[int, Place.OPTIONAL] = 7
    stated: Annotated[int, Place.DEFAULTED] = 9
    words: tuple[str, ...]
    numbers: tuple[float, ...]
    counts: tuple[Natural, ...]
    spots: tuple[Spot, ...]
    spots_by_column: Annotated[tuple[Spot, ...], columns(Spot, "spots")]
    by_name: dict[Annotated[str, lower_case], Natural]
    nothing: Annotated[dict[str, str], Place.OPTIONAL] = field(default_factory=dict)
    text: Annotated[int, Codec(lambda fields, key: int(fields.text(key)), str)]


RECORD = Everything(
    flag=True,
    level=-1.5,
    last=Spot(1.0),
    size=Size(3, 0.5),
    limit=None,
    bounded=2.0,
    words=("a", "b"),
    numbers=(-1.0, 0.0),
    counts=(0, 4),
    spots=(Spot(0.0, "x"),),
    spots_by_column=(Spot(0.0, "x"), Spot(2.0, "y")),
    by_name={"a": 0},
    text=12,
)

WORDS = st.text(st.sampled_from("abcxyz"), min_size=1, max_size=4)
NUMBERS = st.floats(-LARGEST_NUMBER, LARGEST_NUMBER)
SPOTS = st.lists(st.builds(Spot, st.floats(0, LARGEST_NUMBER), WORDS), max_size=3).map(tuple)
COUNTS = st.integers(0, 10**18)
RECORDS = st.builds(
    Everything,
    kind=st.sampled_from(("plain", "odd")),
    flag=st.booleans(),
    level=NUMBERS,
    last=st.builds(Spot, st.floats(0, 9), WORDS),
    size=st.builds(Size, st.integers(1, 9), st.floats(0.01, 1)),
    limit=st.none() | st.floats(1e-9, 1e9),
    bounded=st.floats(1, 10),
    usual=st.integers(1, 9),
    stated=st.integers(1, 9),
    words=st.lists(WORDS, max_size=3).map(tuple),
    numbers=st.lists(NUMBERS, max_size=3).map(tuple),
    counts=st.lists(COUNTS, max_size=3).map(tuple),
    spots=SPOTS,
    spots_by_column=SPOTS,
    by_name=st.dictionaries(WORDS, COUNTS, max_size=3),
    nothing=st.dictionaries(WORDS, WORDS, max_size=3),
    text=st.integers(),
)


def read(content: Any) -> Everything:
    """Return what a file's content says."""
    return from_dict(Everything, Fields(content, "f.json"))


@given(RECORDS)
def test_a_record_is_read_as_it_was_written(record: Everything) -> None:
    text = json_text(to_dict(record))
    again = read(parse_json(text, "f.json"))
    assert again == record
    assert json_text(to_dict(again)) == text


def test_keys_stand_in_the_order_of_fields_but_the_last_ones() -> None:
    content = to_dict(RECORD)
    assert list(content) == [
        "schema", "version", "kind", "flag", "level", "row_count", "share", "limit", "bounded",
        "stated", "words", "numbers", "counts", "spots", "spots_by_column", "by_name", "text",
        "last",
    ]  # fmt: skip
    assert content["spots_by_column"] == {"at_s": [0.0, 2.0], "name": ["x", "y"]}
    assert content["text"] == "12"
    assert keys(Spot) == ("at_s", "name")


def test_usual_values_are_left_out_and_stated_ones_are_not() -> None:
    assert "usual" not in to_dict(RECORD)
    assert to_dict(RECORD)["stated"] == 9
    assert to_dict(replace(RECORD, usual=8, nothing={"a": "b"}))["usual"] == 8
    content = to_dict(RECORD)
    del content["stated"]
    assert read(content) == RECORD


def test_what_is_given_is_not_read() -> None:
    content = Fields({**to_dict(RECORD), "text": "no number"}, "f.json")
    with pytest.raises(InputError, match="unknown keys \\['text'\\]"):
        from_dict(Everything, content, text=5, hidden="else")
    rest = {key: value for key, value in to_dict(RECORD).items() if key != "text"}
    record = from_dict(Everything, Fields(rest, "f.json"), text=5, hidden="else")
    assert (record.text, record.hidden) == (5, "else")


@pytest.mark.parametrize("key", sorted({*to_dict(RECORD)} - {"limit", "stated"}))
def test_what_is_missing_is_named(key: str) -> None:
    content = to_dict(RECORD)
    del content[key]
    with pytest.raises(InputError, match=rf"^f\.json\.{key}: expected .*, but it is missing$"):
        read(content)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("version", 1, ".version: expected 2, got 1; the file was written by another version"),
        ("kind", "even", ".kind: expected one of plain, odd, got 'even'"),
        ("flag", 1, ".flag: expected true or false, got 1"),
        ("level", "high", ".level: expected a finite number, got 'high'"),
        ("row_count", 0, ".row_count: expected a whole number of at least 1, got 0"),
        ("share", 1.5, ".share: expected a number above 0 and at most 1, got 1.5"),
        ("limit", 0, ".limit: expected a positive number, got 0"),
        ("bounded", 0.5, ".bounded: expected a number of 1 to 10, got 0.5"),
        ("words", ["a", 1], ".words: expected a list of texts, got a list"),
        ("numbers", [True], ".numbers: expected a list of numbers, got a list"),
        ("counts", [1, -1], ".counts[1]: expected a whole number of at least 0, got -1"),
        ("spots", [{"at_s": 1, "name": ""}], ".spots[0].name: expected a text, got ''"),
        ("last", {"at_s": -1}, ".last.at_s: expected a number of at least 0, got -1"),
        (
            "spots_by_column",
            {"at_s": [1], "name": []},
            ".spots_by_column: expected columns of as many spots each, got [0, 1]",
        ),
        ("by_name", {"A": 1}, ".by_name: expected small letters, got 'A'"),
        ("by_name", {"a": 0.5}, ".by_name.a: expected a whole number of at least 0, got 0.5"),
        ("more", 1, ": unknown keys ['more']; known are: bounded, by_name"),
    ],
)
def test_what_cannot_be_is_refused(key: str, value: object, message: str) -> None:
    with pytest.raises(InputError) as refused:
        read({**to_dict(RECORD), key: value})
    assert str(refused.value).startswith(f"f.json{message}")


def test_a_hint_that_no_file_can_hold_is_an_error_of_the_programmer() -> None:
    @dataclass(frozen=True)
    class Odd:
        """A record of what no file holds."""

        numbers: set[int]

    with pytest.raises(TypeError, match="no file can hold"):
        to_dict(Odd({1}))
