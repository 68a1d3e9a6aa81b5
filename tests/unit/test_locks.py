"""Locks name their holder and end with it; leftovers of dead processes alone are removed."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.files import whole_file, write_text
from llmpq_sim.io.locks import (
    MARK,
    OWNER_FILE,
    lock_name,
    locked,
    owned_folder,
    remove_leftovers,
    temporary_name,
)

ROOT = Path(__file__).resolve().parents[2]
PREFIX = "llmpq-test-"


@contextmanager
def holding(code: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run a program until it has printed a line; it is killed at the end if it is still there."""
    process = subprocess.Popen(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        if process.stdin is not None:
            process.stdin.close()


LOCKS = """
import sys
from pathlib import Path
from llmpq_sim.io.locks import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

WRITES = """
import sys
from pathlib import Path
from llmpq_sim.io.files import whole_file
with whole_file(Path(sys.argv[1])) as stream:
    print("held", flush=True)
    sys.stdin.read()
"""

OWNS = """
import sys
from llmpq_sim.io.locks import owned_folder
with owned_folder(sys.argv[1]) as folder:
    (folder / "job.json").write_text("{}")
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_names_its_holder_and_what_else_could_be_done(tmp_path: Path) -> None:
    out = tmp_path / "quality.json"
    with holding(LOCKS, str(out)) as holder:
        with pytest.raises(InputError) as refused, locked(out):
            pass
        text = str(refused.value)
        found = re.fullmatch(
            re.escape(str(out)) + r" is being written by process (\d+) \((.*), since \d\d:\d\d\); "
            r"wait for it or choose another --out",
            text,
        )
        assert found is not None, text
        assert int(found[1]) == holder.pid
        assert found[2].startswith("-c ")
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait()
    with locked(out):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_of_a_killed_process_does_not_block(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    with holding(LOCKS, str(out)) as holder:
        holder.kill()
        holder.wait()
        assert (tmp_path / lock_name("plan.json")).exists()
    with locked(out):
        pass
    assert list(tmp_path.iterdir()) == []


def test_two_names_of_a_file_are_one_lock(tmp_path: Path) -> None:
    (tmp_path / "plan.json").touch()
    (tmp_path / "link.json").symlink_to("plan.json")
    with locked(tmp_path / "plan.json"), pytest.raises(InputError, match="--result"):  # noqa: SIM117
        with locked(tmp_path / "link.json", "--result"):
            pass
    with locked(tmp_path / "plan.json"), locked(tmp_path / "other.json"):
        pass


@given(st.binary(max_size=200))
def test_any_note_is_survived(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "plan.json"
        with locked(out):
            (Path(folder) / lock_name("plan.json")).write_bytes(content)
            with pytest.raises(InputError, match="is being written by"), locked(out):
                pass


def test_a_note_with_an_unprintable_command_is_shown_in_one_line(tmp_path: Path) -> None:
    out = tmp_path / "plan.json"
    with locked(out):
        note = {"process": 7, "command": "a\x1b[31m\nb", "since": "2020-01-02T03:04:05+00:00"}
        (tmp_path / lock_name("plan.json")).write_text(json.dumps(note), encoding="utf-8")
        with pytest.raises(InputError) as refused, locked(out):
            pass
    assert "process 7 (a?[31m?b, since 2020-01-0" in str(refused.value)


def test_what_cannot_be_locked_is_told(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot write"):  # noqa: SIM117
        with locked(tmp_path / "no" / "plan.json"):
            pass


def test_a_link_in_the_place_of_a_lock_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("kept", encoding="utf-8")
    (tmp_path / lock_name("plan.json")).symlink_to(tmp_path / "precious")
    with pytest.raises(InputError, match="cannot write"), locked(tmp_path / "plan.json"):
        pass
    assert (tmp_path / "precious").read_text(encoding="utf-8") == "kept"


def test_a_lock_that_may_only_be_read_is_removed_when_nobody_holds_it(tmp_path: Path) -> None:
    lock = tmp_path / lock_name("plan.json")  # of another user, in a folder of both
    lock.write_text("{}", encoding="utf-8")
    lock.chmod(0o444)
    with locked(tmp_path / "plan.json"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_longest_name_has_a_lock(tmp_path: Path) -> None:
    with locked(tmp_path / ("x" * 255)):
        pass


def test_many_locks_are_taken_while_others_look_for_leftovers(tmp_path: Path) -> None:
    faults: list[InputError] = []

    def take(name: str) -> None:
        for _ in range(50):
            try:
                with locked(tmp_path / name):
                    pass
            except InputError as fault:
                faults.append(fault)

    takers = [threading.Thread(target=take, args=(f"{number}.json",)) for number in range(4)]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join()
    assert faults == []
    assert list(tmp_path.iterdir()) == []


# ---- temporary files


def test_a_temporary_file_of_a_killed_process_is_removed(tmp_path: Path) -> None:
    with holding(WRITES, str(tmp_path / "plan.json")) as writer:
        remove_leftovers(tmp_path)
        assert len(list(tmp_path.glob(f"{MARK}*"))) == 1  # it is being written
        writer.kill()
        writer.wait()
    with locked(tmp_path / "plan.json"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_is_held_stays_though_its_process_seems_gone(tmp_path: Path) -> None:
    with whole_file(tmp_path / "plan.json") as stream:
        stream.write(b"{}")
        (own,) = tmp_path.glob(f"{MARK}*")
        elsewhere = own.with_name(f"{MARK}{dead_process()}-0123456789abcdef")
        own.rename(elsewhere)  # as a process of another container would have named it
        remove_leftovers(tmp_path)
        assert elsewhere.exists()
        elsewhere.rename(own)
    assert (tmp_path / "plan.json").read_bytes() == b"{}"


def test_only_our_temporary_files_are_removed(tmp_path: Path) -> None:
    dead = dead_process()
    kept = [
        "plan.json",
        ".llmpq",
        f"{MARK}notes",
        f"{MARK}{dead}",
        f"{MARK}{os.getpid()}-0123456789abcdef",
        f"{MARK}{10**30}-0123456789abcdef",
    ]
    for name in (*kept, f"{MARK}{dead}-0123456789abcdef", lock_name("gone.json")):
        (tmp_path / name).write_text("x", encoding="utf-8")
    (tmp_path / f"{MARK}{dead}-folder").mkdir()
    remove_leftovers(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        [*kept, f"{MARK}{dead}-folder"]
    )
    remove_leftovers(tmp_path / "missing")


def test_names_of_temporary_files_differ() -> None:
    assert temporary_name() != temporary_name()
    assert temporary_name().startswith(f"{MARK}{os.getpid()}-")


def test_text_is_written_while_leftovers_are_removed(tmp_path: Path) -> None:
    for number in range(20):
        write_text(tmp_path / "plan.json", str(number))
        remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["plan.json"]


# ---- folders


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of temporary files, an empty one, also for processes that are started."""
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_folder_is_private_and_removed(temporary: Path) -> None:
    with owned_folder(PREFIX) as folder:
        assert folder.parent == temporary
        assert folder.stat().st_mode & 0o777 == 0o700
    with pytest.raises(InputError), owned_folder(PREFIX) as folder:
        raise InputError("no")
    assert list(temporary.iterdir()) == []


def test_folders_of_killed_processes_are_removed_and_others_stay(temporary: Path) -> None:
    (temporary / f"{PREFIX}{dead_process()}-abc").mkdir()
    strangers = [temporary / f"{PREFIX}abc", temporary / f"{PREFIX}{os.getpid()}-abc"]
    for folder in strangers:
        folder.mkdir()
    target = temporary / "elsewhere"
    target.mkdir()
    (temporary / f"{PREFIX}{dead_process()}-link").symlink_to(target)
    with holding(OWNS, PREFIX) as killed, holding(OWNS, PREFIX) as alive:
        killed.kill()
        killed.wait()
        with owned_folder(PREFIX):
            left = [path.name for path in temporary.iterdir()]
            assert not [name for name in left if name.startswith(f"{PREFIX}{killed.pid}-")]
            assert [name for name in left if name.startswith(f"{PREFIX}{alive.pid}-")]
    assert all(folder.exists() for folder in (*strangers, target))


def test_a_folder_that_is_held_stays_though_its_process_seems_gone(temporary: Path) -> None:
    with owned_folder(PREFIX) as folder:
        assert (folder / OWNER_FILE).exists()
        elsewhere = folder.rename(temporary / f"{PREFIX}{dead_process()}-abc")
        with owned_folder(PREFIX):
            assert elsewhere.exists()
    shutil.rmtree(elsewhere)


def dead_process() -> int:
    """Return the number of a process that has ended."""
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid
