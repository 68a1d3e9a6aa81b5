"""Reading and writing of files."""

import os
from pathlib import Path

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.files import (
    json_text,
    read_json,
    read_text,
    read_yaml,
    sha256_of,
    write_json,
    write_text,
)


def message_of_reading(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        read_json(path)
    return str(caught.value)


def message_of_writing(path: Path, text: str = "x") -> str:
    with pytest.raises(InputError) as caught:
        write_text(path, text)
    return str(caught.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    assert message_of_reading(path) == f"cannot read {path}: No such file or directory"


def test_a_name_that_cannot_be_a_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 300)
    assert message_of_reading(path) == f"cannot read {path}: File name too long"
    path = tmp_path / "a\0b"
    assert message_of_reading(path).endswith("embedded null byte")


def test_a_folder_is_not_a_file(tmp_path: Path) -> None:
    assert message_of_reading(tmp_path) == f"{tmp_path}: expected a file, got a folder"


def test_a_pipe_is_refused_rather_than_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    assert message_of_reading(path) == f"{path}: expected a file, got a device or pipe"


def test_bytes_that_are_no_text_are_located(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(b'{"a": "\xff"}')
    message = "plan.json: expected UTF-8 text, got byte 0xff at offset 7"
    assert message_of_reading(path) == message


def test_an_empty_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_text(" \n")
    assert message_of_reading(path) == "plan.json: expected content, but the file is empty"


def test_a_huge_file_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.touch()
    os.truncate(path, 2**40)
    assert message_of_reading(path) == f"{path}: expected at most 64 MiB, got 1048576.0 MiB"


def test_yaml_that_nobody_typed_is_refused_unread(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.touch()
    os.truncate(path, 2**21)
    with pytest.raises(InputError) as caught:
        read_yaml(path)
    assert str(caught.value) == f"{path}: expected at most 1 MiB, got 2.0 MiB"


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"\xef\xbb\xbf[1]")
    assert read_json(path) == [1]
    assert read_yaml(path) == [1]


def test_json_keeps_the_order_and_gives_plain_lists_a_line(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"b": [1, 2.5, "é"], "a": [{"c": None}, {}], "e": []})
    lines = ["{", ' "b": [1, 2.5, "é"],', ' "a": [', "  {", '   "c": null', "  },", "  {}", " ],"]
    assert read_text(path) == "\n".join([*lines, ' "e": []', "}", ""])


def test_a_written_file_replaces_the_old_one_and_leaves_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("a much longer old text")
    write_text(path, "new")
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_to_a_file_stays_a_link(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    link.symlink_to(target)
    write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"


def test_what_cannot_be_written_is_one_error_and_leaves_nothing(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("old")
    missing, inside, loop = tmp_path / "no" / "a", file / "a", tmp_path / "loop"
    loop.symlink_to(loop)
    assert message_of_writing(missing) == f"cannot write {missing}: No such file or directory"
    assert message_of_writing(inside) == f"cannot write {inside}: Not a directory"
    assert message_of_writing(tmp_path) == f"cannot write {tmp_path}: it is not a regular file"
    assert message_of_writing(loop).startswith(f"cannot write {loop}: ")
    assert message_of_writing(file, "\ud800").startswith(f"cannot write {file}: 'utf-8' codec")
    assert file.read_text() == "old"
    assert {path.name for path in tmp_path.iterdir()} == {"file", "loop"}


def test_a_device_is_never_replaced_by_a_file() -> None:
    assert message_of_writing(Path(os.devnull)) == (
        f"cannot write {os.devnull}: it is not a regular file"
    )
    assert not Path(os.devnull).is_file()


def test_a_number_that_is_not_finite_is_never_written() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        json_text({"a": float("nan")})


def test_the_digest_is_of_the_canonical_text() -> None:
    of_compact_text = "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"
    assert sha256_of({"a": 1}) == of_compact_text  # printf '{"a":1}' | sha256sum
    assert sha256_of({"b": [1], "a": 1}) == sha256_of({"a": 1, "b": (1,)})
