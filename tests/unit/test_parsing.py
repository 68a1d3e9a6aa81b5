"""Answers to hostile JSON and YAML texts."""

import time

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.parsing import parse_json, parse_yaml

TOO_DEEP = "f.json: expected at most 64 levels of nesting, got more"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "f.json: not JSON at line 1, column 1: Expecting value"),
        ('{"a": 1,\n "b" 2}', "f.json: not JSON at line 2, column 6: Expecting ':' delimiter"),
        ("1 2", "f.json: not JSON at line 1, column 3: Extra data"),
        ('{"a": 1, "a": 2}', "f.json: expected distinct keys, got 'a' more than once"),
        ('{"a": NaN}', "f.json: expected finite numbers, got nan"),
        ("[-Infinity]", "f.json: expected finite numbers, got -inf"),
        ("[1e999]", "f.json: expected finite numbers, got inf"),
        ("9" * 5000, "f.json: expected numbers of at most 4300 digits"),
        ('["\\ud800"]', "f.json: expected Unicode text, got '\\ud800'"),
        ('{"\\ud800": 1}', "f.json: expected Unicode text, got '\\ud800'"),
        ("[" * 65 + "]" * 65, TOO_DEEP),
        ('{"a":' * 65 + "1" + "}" * 65, TOO_DEEP),
        ("[" * 1_000_000, TOO_DEEP),
    ],
)
def test_bad_json_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_json(text, "f.json")
    assert str(caught.value) == message


def at(line: int, column: int) -> str:
    return f"f.yaml: not usable YAML at line {line}, column {column}: "


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1: a\n1.0: b", at(2, 1) + "expected distinct keys, got '1.0' more than once"),
        ("a: 1\na: 2", at(2, 1) + "expected distinct keys, got 'a' more than once"),
        ("{b: {a, a}}", at(1, 9) + "expected distinct keys, got 'a' more than once"),
        ("a: &x [1]\nb: *x", at(1, 4) + "expected no anchors or aliases"),
        ("a: *x", at(1, 4) + "expected no anchors or aliases"),
        (
            "a: !!python/object/apply:os.getcwd []",
            at(1, 4) + "expected no tags, got tag:yaml.org,2002:python/object/apply:os.getcwd",
        ),
        ("[" * 1_000_000, at(1, 65) + "expected at most 64 levels of nesting"),
        ("- " * 1000 + "a", at(1, 129) + "expected at most 64 levels of nesting"),
        ("--- a\n--- b", at(2, 1) + "but found another document"),
        ("? [1]\n: 2", at(1, 3) + "found unhashable key"),
        ("a: 1e999", "f.yaml: expected finite numbers, got inf"),
        ("a: " + "9" * 5000, "f.yaml: not YAML: expected numbers of at most 4300 digits"),
    ],
)
def test_bad_yaml_is_one_clear_error(text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_yaml(text, "f.yaml")
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "text",
    ["a: [1, 2", 'a: "\\ud800"', 'a: "\\UFFFFFFFF"', "a: \x07", "a: \ud800", "\t- a: b: c", "%x"],
)
def test_what_the_yaml_parser_refuses_is_one_line(text: str) -> None:
    with pytest.raises(InputError, match=r"\Af\.yaml: [^\n]+\Z"):
        parse_yaml(text, "f.yaml")


def test_more_values_than_any_file_has_are_refused_uncounted_by_the_parser() -> None:
    with pytest.raises(InputError) as caught:
        parse_json("[" + "{}," * 2_000_000 + "{}]", "f.json")
    assert str(caught.value) == "f.json: expected at most 2000000 objects and lists, got 2000002"
    with pytest.raises(InputError) as caught:
        parse_json("[" + "0," * 10_000_000 + "0]", "f.json")
    assert str(caught.value) == "f.json: expected at most 10000000 values, got 10000001"


def test_a_mebibyte_of_yaml_takes_seconds_at_most() -> None:
    text = "- a\n" * (2**20 // 4)
    begun_s = time.process_time()
    assert parse_yaml(text, "f.yaml") == ["a"] * 2**18
    assert time.process_time() - begun_s < 5


def test_plain_words_of_yaml_are_read_by_the_core_schema() -> None:
    read = parse_yaml("[no, 1:30, 2024-01-01, 010, .inf, <<, 1e3, -5, .5, 0, ~, true]", "f.yaml")
    texts = ["no", "1:30", "2024-01-01", "010", ".inf", "<<"]
    assert read == [*texts, 1000.0, -5, 0.5, 0, None, True]


def test_sixty_four_levels_are_fine() -> None:
    text = "[" * 64 + "]" * 64
    assert parse_json(text, "f.json") == parse_yaml(text, "f.yaml")
