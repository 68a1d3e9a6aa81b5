"""The installed command carries out plans: answers, resumption, interruption, comparison."""

import json
import os
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from time import sleep

import pytest

from tests.e2e.commands import LLMPQ, llmpq
from tests.runtimes.models import VOCABULARY, save_model

MARK = f"interrupted-{os.getpid()}"
"""By which this test finds its own processes among all."""

CLUSTER = """schema: llmpq/cluster
version: 1
name: two-cores
nodes:
  - name: here
    devices:
      - {type: cpu, count: 2}
    link: {latency_us: 60, gb_per_s: 4}
"""

PRESET = """schema: llmpq/workload
version: 1
name: few
source: made up
requests: 5
classes:
  - name: short
    prompt: 20
    output: 6
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model, a cluster and a plan, put on two stages by hand."""
    folder = tmp_path_factory.mktemp("deployed")
    save_model("llama", folder / "model")
    (folder / "two.yaml").write_text(CLUSTER, encoding="utf-8")
    found = llmpq(
        *("search", "--model", "model", "--cluster", "two.yaml", "--batch", "4"),
        *("--prompt-tokens", "16", "--output-tokens", "12", "--quality-at-least", "int8"),
        *("--generations", "2"),
        cwd=folder,
    )
    assert found.returncode == 0, found.stderr
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    plan["plan"] = {
        "stages": [
            {"device": "cpu-0", "first_layer": 0, "formats": ["int8"]},
            {"device": "cpu-1", "first_layer": 1, "formats": ["int8", "bf16", "int8"]},
        ],
        "prefill_micro_batch": 2,
        "decode_micro_batch": 2,
        "groups_in_flight": 2,
    }
    (folder / "plan.json").write_text(json.dumps(plan), encoding="utf-8")
    return folder


def asked(count: int, output_tokens: int = 8) -> str:
    """Return requests in batch form whose prompts are token ids."""
    lines = [
        {
            "custom_id": f"ask-{number}",
            "method": "POST",
            "url": "/v1/completions",
            "body": {
                "prompt": [3 + (number + i) % (VOCABULARY - 3) for i in range(5 + number % 3)],
                "max_tokens": output_tokens,
                "ignore_eos": True,
            },
        }
        for number in range(count)
    ]
    return "".join(json.dumps(line) + "\n" for line in lines)


def answers(path: Path) -> dict[str, list[int]]:
    """Return the token ids of each answer."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return {
        line["custom_id"]: line["response"]["body"]["choices"][0]["token_ids"]
        for line in lines
        if line["response"]
    }


DEPLOY = ("deploy", "plan.json", "--model-dir", "model", "--dtype", "fp32")


def test_requests_come_in_and_answers_go_out(folder: Path) -> None:
    long = json.loads(asked(1)) | {"custom_id": "long"}
    long["body"]["max_tokens"] = 60
    (folder / "in.jsonl").write_text(asked(6) + json.dumps(long) + "\n", encoding="utf-8")
    done = llmpq(
        *DEPLOY, "--requests", "in.jsonl", "--out", "out.jsonl", "--compare",
        "--timeline", "t.json", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert set(answers(folder / "out.jsonl")) == {f"ask-{number}" for number in range(6)}
    assert "out.jsonl holds 6 answers, 1 refused." in done.stdout
    assert "Refused long: " in done.stdout
    assert "whole pipeline  predicted" in done.stdout
    assert len(json.loads((folder / "t.json").read_text(encoding="utf-8"))["traceEvents"]) > 20
    shown = llmpq("compare", "result.json", "--json", cwd=folder)
    figures = json.loads(shown.stdout)["figures"]
    assert figures["tokens_per_s"]["measured"] > 0


def test_what_is_answered_is_not_asked_again(folder: Path) -> None:
    (folder / "some.jsonl").write_text(asked(3), encoding="utf-8")
    (folder / "all.jsonl").write_text(asked(5), encoding="utf-8")
    first = llmpq(*DEPLOY, "--requests", "some.jsonl", "--out", "kept.jsonl", cwd=folder)
    assert first.returncode == 0, first.stderr
    kept = (folder / "kept.jsonl").read_bytes()
    refused = llmpq(*DEPLOY, "--requests", "all.jsonl", "--out", "kept.jsonl", cwd=folder)
    assert refused.returncode == 1
    assert "--resume" in refused.stderr
    more = llmpq(
        *DEPLOY, "--requests", "all.jsonl", "--out", "kept.jsonl", "--resume", "--json", cwd=folder
    )
    assert more.returncode == 0, more.stderr
    assert json.loads(more.stdout)["measured"]["finished"] == 2
    assert (folder / "kept.jsonl").read_bytes().startswith(kept)
    whole = llmpq(*DEPLOY, "--requests", "all.jsonl", "--out", "whole.jsonl", cwd=folder)
    assert whole.returncode == 0, whole.stderr
    assert answers(folder / "kept.jsonl") == answers(folder / "whole.jsonl")


def test_an_interrupted_run_keeps_its_answers_and_leaves_no_process(folder: Path) -> None:
    (folder / "many.jsonl").write_text(asked(400, 20), encoding="utf-8")
    running = subprocess.Popen(
        [str(LLMPQ), *DEPLOY, "--requests", "many.jsonl", "--out", "cut.jsonl"],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env={**os.environ, "NO_COLOR": "1", "LLMPQ_TEST": MARK},
    )
    out = folder / "cut.jsonl"
    try:
        while not (out.exists() and out.read_bytes().count(b"\n") >= 4):
            assert running.poll() is None, running.communicate()
            sleep(0.1)
        assert len(workers()) >= 2
        os.kill(running.pid, signal.SIGINT)
        _, told = running.communicate(timeout=30)
    finally:
        running.kill()
        running.communicate()
    assert running.returncode == 130
    kept = "what was answered is in cut.jsonl, --resume does the rest"
    assert told.strip() == f"interrupted; {kept}"
    assert out.read_bytes().endswith(b"\n")
    assert 4 <= len(answers(out)) < 400
    assert workers() == []


def test_a_killed_run_is_resumed_with_the_tokens_of_a_whole_one(folder: Path) -> None:
    """In bf16 with int8 layers, where without --batch-invariant tokens depend on the batch."""
    options = ("deploy", "plan.json", "--model-dir", "model", "--batch-invariant")
    asking = (*options, "--requests", "sixty.jsonl", "--out")
    (folder / "sixty.jsonl").write_text(asked(60, 20), encoding="utf-8")
    whole = llmpq(*asking, "whole-60.jsonl", cwd=folder)
    assert whole.returncode == 0, whole.stderr
    out = folder / "killed.jsonl"
    running = subprocess.Popen(
        [str(LLMPQ), *asking, "killed.jsonl"],
        cwd=folder,
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        while not (out.exists() and out.read_bytes().count(b"\n") >= 11):
            assert running.poll() is None
            sleep(0.02)
    finally:
        running.kill()
        running.communicate()
    assert 0 < len(answers(out)) < 60
    resumed = llmpq(*asking, "killed.jsonl", "--resume", cwd=folder)
    assert resumed.returncode == 0, resumed.stderr
    expected = answers(folder / "whole-60.jsonl")
    assert answers(out) == expected
    served = llmpq(*asking, "served.jsonl", "--policy", "continuous", cwd=folder)
    assert served.returncode == 0, served.stderr
    assert answers(folder / "served.jsonl") == expected


def workers() -> list[int]:
    """Return the processes of stages that this test started, told by its mark."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, PermissionError, ProcessLookupError):
            words = (process / "cmdline").read_bytes()
            marked = MARK.encode() in (process / "environ").read_bytes()
            if marked and b"runtimes.torch_pipeline.processes.worker" in words:
                found.append(int(process.name))
    return found


def test_the_simulated_runtime_needs_no_model(folder: Path) -> None:
    done = llmpq("deploy", "plan.json", "--runtime", "simulated", "--compare", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "error 0.0 %" in done.stdout.replace("+0.0", "0.0")


def test_synthetic_prompts_are_served_by_continuous_batching(folder: Path) -> None:
    (folder / "few.yaml").write_text(PRESET, encoding="utf-8")
    done = llmpq(
        *DEPLOY, "--trace", "few.yaml", "--requests", "5", "--policy", "continuous",
        "--token-budget", "16", "--json", "--compare", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["measured"]["finished"] == 5
    assert told["policy"] == "continuous"
    assert told["comparison"]["predicted"]["finished"] == 5


REFUSALS = [
    (("deploy", "plan.json"), "--model-dir: the torch runtime needs the model's folder"),
    (("deploy", "plan.json", "--model-dir", "nowhere"), "--model-dir: expected a folder"),
    (("deploy", "plan.json", "--runtime", "abacus"), "--runtime: expected an installed runtime"),
    ((*DEPLOY, "--requests", "7"), "--requests: a number goes with --trace"),
    ((*DEPLOY, "--rate", "2"), "--rate: give --trace as well"),
    ((*DEPLOY, "--requests", "missing.jsonl"), "missing.jsonl"),
    ((*DEPLOY, "--resume"), "--resume: give the file of answers with --out"),
    ((*DEPLOY, "--token-budget", "9"), "--token-budget: is of continuous batching"),
    ((*DEPLOY, "--devices", "cuda:0,cpu"), "needs cuda:0, this machine has"),
    ((*DEPLOY, "--out", "no/where.jsonl"), "cannot write no/where.jsonl"),
    ((*DEPLOY, "--batch-invariant", "--cuda-graphs"), "expected without --cuda-graphs"),
    (("compare", "missing.json"), "cannot read missing.json"),
    (("profile", "--device", "abacus", "--out", "r.csv"), "--device"),
    (("profile", "--model", "gpt-9", "--out", "r.csv"), "model: expected"),
    (("cluster", "missing.json"), "cannot read missing.json"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSALS, ids=lambda part: str(part)[-50:])
def test_bad_input_is_one_message(folder: Path, arguments: tuple[str, ...], message: str) -> None:
    done = llmpq(*arguments, cwd=folder)
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
