"""Bad input through the installed entry point: one message, exit code 1, nothing half written."""

import os
from pathlib import Path

import pytest

from tests.e2e.commands import called, llmpq

SEARCH = ("search", "--model", "opt-125m", "--cluster", "paper-9", "--kernels", "spec")

MESSAGES = [
    (
        ("search", "--model", "bloom-176b", "--cluster", "paper-1", "--kernels", "spec"),
        "bloom-176b on paper-1: does not fit at int3, the smallest allowed format: weights "
        "of 77.1 GiB and one request's KV cache of 2.4 GiB need",
    ),
    (
        ("search", "--model", "opt-30b", "--cluster", "paper-9", "--kernels", "spec",
         "--quality-at-least", "fp16"),
        "opt-30b on paper-9: no plan fits the memory within a quality loss of 0 nominal nats; with "
        "one request in flight int8 everywhere would fit and lose 0.0001762: try "
        "--quality-at-least int8",
    ),
    ((*SEARCH, "--quality-at-least", "int1"), "--quality-at-least: expected a format"),
    ((*SEARCH, "--formats", "bf16"), "--formats: no device of paper-9 runs bf16"),
    ((*SEARCH, "--formats", "int7"), "--formats: expected a weight format"),
    ((*SEARCH, "--kernels", "fast"), "--kernels: t4 has no profile for 'fast'; it has spec"),
    ((*SEARCH, "--batch", "0"), "--batch: expected 1 to 4096 requests, got 0"),
    ((*SEARCH, "--prompt-tokens", "4000"), "--prompt-tokens: 4000 and 128 to generate are 4128"),
    ((*SEARCH, "--out", "missing/plan.json"), "cannot write missing/plan.json: there is no folder"),
    ((*SEARCH, "--out", "."), "cannot write .: it is a folder"),
    (("search", "--model", "gpt-5", "--cluster", "paper-9"), "model: expected"),
    (("search", "--model", "opt-125m", "--cluster", "paper-99"), "cluster: expected"),
    (("simulate", "nothing.json"), "cannot read nothing.json: No such file or directory"),
    (("verify", "nothing.json"), "cannot read nothing.json: No such file or directory"),
    (("fit", "nothing.csv", "--device", "t4", "--out", "p.json"), "cannot read nothing.csv"),
    (("list", "gpus"), "list: expected"),
]  # fmt: skip


@pytest.mark.parametrize(("arguments", "message"), MESSAGES, ids=lambda part: str(part)[:60])
def test_bad_input_is_one_message_and_exit_code_1(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = called(*arguments, cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


HOSTILE = {
    "empty": "",
    "nan": '{"schema": NaN}',
    "twice": '{"schema": "llmpq/plan", "schema": "llmpq/plan"}',
    "deep": "[" * 100_000,
    "huge": '{"schema": "llmpq/plan", "version": 1' + "0" * 5000 + "}",
    "other": '{"schema": "llmpq/profile", "version": 1}',
    "binary": "\x00\x01\x02",
    "list": "[1, 2]",
}


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", ["simulate", "verify"])
def test_hostile_plan_files_are_one_message(tmp_path: Path, command: str, name: str) -> None:
    (tmp_path / "plan.json").write_text(HOSTILE[name], encoding="utf-8")
    done = llmpq(command, "plan.json", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: plan.json")
    assert done.stderr.count("\n") == 1


CLUSTERS = {
    "unit": "schema: llmpq/cluster\nversion: 1\nname: x\nnodes:\n- name: a\n  devices: "
    "[{type: t4, count: -1}]\n",
    "alias": "a: &a [1]\nb: *a\n",
    "tag": "a: !!python/object/apply:os.system ['true']\n",
    "deep": "[" * 5000,
    "tab": "a:\n\t- b\n",
}


@pytest.mark.parametrize("name", CLUSTERS)
def test_hostile_cluster_files_are_one_message(tmp_path: Path, name: str) -> None:
    (tmp_path / "lab.yaml").write_text(CLUSTERS[name], encoding="utf-8")
    done = called("search", "--model", "opt-125m", "--cluster", "lab.yaml", cwd=tmp_path)
    assert done.returncode == 1, done.stderr
    assert done.stderr.startswith("error: lab.yaml")
    assert done.stderr.count("\n") == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_closed_folder_is_refused_before_the_search(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    done = llmpq(*SEARCH, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert "is not writable" in done.stderr


def test_a_usage_mistake_exits_with_2(tmp_path: Path) -> None:
    assert llmpq("search", "--model", "opt-125m", cwd=tmp_path).returncode == 2
    assert llmpq("serch", cwd=tmp_path).returncode == 2
