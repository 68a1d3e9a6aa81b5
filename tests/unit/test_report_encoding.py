"""Characters that stand for those which the encoding of the output does not have."""

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.io.files import json_text
from llmpq_sim.report.console import print_json
from llmpq_sim.report.encoding import HANDLER, allow_plain_characters
from llmpq_sim.report.formatting import SEPARATOR, bar

ENCODINGS = ("ascii", "latin-1", "cp1252", "cp437", "utf-8")
texts = st.text(st.characters(exclude_categories=()), max_size=30)
allow_plain_characters()


def shown(text: str, encoding: str) -> str:
    return text.encode(encoding, HANDLER).decode(encoding)


@given(texts, st.sampled_from(ENCODINGS))
def test_every_text_can_be_shown_in_every_encoding(text: str, encoding: str) -> None:
    assert isinstance(shown(text, encoding), str)


@given(st.text(st.characters(max_codepoint=127)), st.sampled_from(ENCODINGS))
def test_what_an_encoding_has_stays_as_it_is(text: str, encoding: str) -> None:
    assert shown(text, encoding) == text


def test_what_reads_alike_stands_for_the_rest() -> None:
    assert shown(bar(0.5, 8), "ascii") == "####...."
    assert shown(f"3.1{SEPARATOR}± 6 %", "ascii") == "3.1 | +- 6 %"
    assert shown("é ± ▂█ 中", "latin-1") == "é ± .# \\u4e2d"
    assert shown("a\udcffb", "utf-8") == "a\\udcffb"


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_stream_takes_everything(encoding: str) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    allow_plain_characters(stream, io.StringIO())
    print("▁▂▃▄▅▆▇█ · ± │└─▲•�\udc80", file=stream, flush=True)
    assert stream.buffer.tell() > 0


@given(name=texts, encoding=st.sampled_from(ENCODINGS))
def test_json_says_the_same_in_every_encoding(name: str, encoding: str) -> None:
    content = {"name": name, "é": [1, name]}
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding, newline="")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "stdout", stream)
        print_json(content)
        stream.flush()
    written = stream.buffer.getvalue()
    assert json.loads(written.decode(encoding)) == content
    if name.isascii() and encoding == "utf-8":
        assert written.decode() == json_text(content)
