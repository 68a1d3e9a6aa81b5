"""Deployments by the installed command: answers, resumption, interruption, comparison."""

import json
import os
import re
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from time import sleep

import psutil
import pytest

from tests.e2e.commands import LLMPQ, called, llmpq
from tests.runtimes.models import VOCABULARY, save_model
from tests.runtimes.sockets_of_tests import LOOPBACK, free_port, listening

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
    """Return a folder with a tiny model, a cluster and a plan by hand of two stages."""
    folder = tmp_path_factory.mktemp("deployed")
    save_model("llama", folder / "model")
    (folder / "two.yaml").write_text(CLUSTER, encoding="utf-8")
    (folder / "formats.txt").write_text("2 x int8\nbf16\nint8\n", encoding="utf-8")
    written = llmpq(
        *("plan", "--model", "model", "--cluster", "two.yaml", "--batch", "4"),
        *("--prompt-tokens", "16", "--output-tokens", "12", "--quality-at-least", "int8"),
        *("--layers", "1,3", "--layer-formats", "formats.txt", "--prefill-micro-batch", "2"),
        *("--decode-micro-batch", "2", "--groups-in-flight", "2"),
        cwd=folder,
    )
    assert written.returncode == 0, written.stderr
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
    assert re.search("whole pipeline +predicted", done.stdout)
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
    refused = called(*DEPLOY, "--requests", "all.jsonl", "--out", "kept.jsonl", cwd=folder)
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


PATIENCE_S = 120.0
"""For what takes seconds on an idle machine."""


@contextmanager
def deploying(
    folder: Path, *arguments: str, after: int = 0
) -> Iterator[tuple[subprocess.Popen[str], list[psutil.Process]]]:
    """Run a deployment in the background; give it and its stages once it has answered so much."""
    env = {**os.environ, "NO_COLOR": "1", "TMPDIR": str(folder / "temporary")}
    (folder / "temporary").mkdir(exist_ok=True)
    running = subprocess.Popen(
        [str(LLMPQ), *DEPLOY, *arguments],
        cwd=folder,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        start_new_session=True,
        env=env,
        preexec_fn=heed_interrupts,  # noqa: PLW1509 - no thread runs here
    )
    out = folder / arguments[arguments.index("--out") + 1]
    try:
        while len(stages := stages_of(running)) < 2 or answered(out) < after:
            assert running.poll() is None, running.communicate()
            sleep(0.05)
        yield running, stages
    finally:
        running.kill()
        running.communicate()
    _, left = psutil.wait_procs(stages, timeout=PATIENCE_S)
    assert left == []


def heed_interrupts() -> None:
    """Let Ctrl-C reach this process though tests may run in the background, where it is ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def stages_of(running: subprocess.Popen[str]) -> list[psutil.Process]:
    with suppress(psutil.Error):
        return psutil.Process(running.pid).children(recursive=True)
    return []


def answered(out: Path) -> int:
    return out.read_bytes().count(b"\n") if out.exists() else 0


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)], ids=["SIGINT", "SIGTERM"]
)
def test_an_interrupted_run_keeps_its_answers_and_leaves_nothing(
    folder: Path, number: signal.Signals, code: int
) -> None:
    (folder / "many.jsonl").write_text(asked(400, 20), encoding="utf-8")
    out = folder / f"cut-{code}.jsonl"
    with deploying(folder, "--requests", "many.jsonl", "--out", out.name, after=4) as (running, _):
        os.kill(running.pid, number)
        _, told = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == code
    kept = f"what was answered is in {out.name}, --resume does the rest"
    assert told.strip() == f"interrupted; {kept}"
    assert out.read_bytes().endswith(b"\n")
    assert 4 <= len(answers(out)) < 400
    assert list((folder / "temporary").iterdir()) == []
    assert list(folder.glob(".llmpq-*")) == []


def test_a_killed_run_is_resumed_with_the_tokens_of_a_whole_one(folder: Path) -> None:
    """In bf16 with int8 layers, where without --batch-invariant tokens depend on the batch."""
    options = ("--dtype", "bf16", "--batch-invariant", "--requests", "some-60.jsonl", "--out")
    (folder / "some-60.jsonl").write_text(asked(60, 20), encoding="utf-8")
    whole = llmpq(*DEPLOY, *options, "whole-60.jsonl", cwd=folder)
    assert whole.returncode == 0, whole.stderr
    expected, out = answers(folder / "whole-60.jsonl"), folder / "killed.jsonl"
    with deploying(folder, *options, "killed.jsonl", after=11) as (running, _):
        running.kill()
        running.wait()
    assert 0 < len(answers(out)) < 60
    resumed = llmpq(
        *(*DEPLOY, *options, "killed.jsonl", "--resume"),
        cwd=folder,
        env={"TMPDIR": str(folder / "temporary")},
    )
    assert resumed.returncode == 0, resumed.stderr
    assert answers(out) == expected
    served = llmpq(*DEPLOY, *options, "served.jsonl", "--policy", "continuous", cwd=folder)
    assert served.returncode == 0, served.stderr
    assert answers(folder / "served.jsonl") == expected


def test_what_runs_listens_on_loopback_is_private_and_is_alone(folder: Path) -> None:
    (folder / "crowd.jsonl").write_text(asked(3000, 20), encoding="utf-8")
    port = free_port()
    address = f"127.0.0.1:{port}"
    arguments = ("--requests", "crowd.jsonl", "--out", "lone.jsonl", "--master", address)
    with deploying(folder, *arguments, after=1) as (running, stages):
        found = listening((psutil.Process(running.pid), *stages))
        assert ("127.0.0.1", port) in found
        assert {host for host, _ in found} <= LOOPBACK
        (run,) = (folder / "temporary").glob("llmpq-run-*")
        assert run.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in run.iterdir()} == {0o600}
        for process in (psutil.Process(running.pid), *stages):
            process.suspend()  # it holds its files and its port, and no core
        for option, other in (
            ("--out", ("--out", "lone.jsonl", "--resume", "--result", "other.json")),
            ("--result", ("--out", "other.jsonl")),
        ):
            second = called(*DEPLOY, "--requests", "crowd.jsonl", *other, cwd=folder)
            assert second.returncode == 1
            assert f" is being written by process {running.pid} (llmpq deploy " in second.stderr
            assert second.stderr.endswith(f"; wait for it or choose another {option}\n")
            assert second.stderr.count("\n") == 1
        third = called(
            *(*DEPLOY, "--requests", "crowd.jsonl", "--out", "third.jsonl"),
            *("--result", "third.json", "--master", f"127.0.0.1:{port}"),
            cwd=folder,
        )
        assert third.returncode == 1
        assert third.stderr == (
            f"error: --master: cannot listen on 127.0.0.1:{port}: Address already in use; choose "
            "another port, or an address of this machine\n"
        )
        running.kill()
        running.wait()
        assert run.exists()
    one = llmpq(
        *(*DEPLOY, "--out", "one.jsonl"), cwd=folder, env={"TMPDIR": str(folder / "temporary")}
    )
    assert one.returncode == 0, one.stderr
    assert list((folder / "temporary").iterdir()) == []


def test_the_simulated_runtime_needs_no_model(folder: Path) -> None:
    done = llmpq("deploy", "plan.json", "--runtime", "simulated", "--compare", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert "error 0.0 %" in done.stdout.replace("+0.0", "0.0")


def test_synthetic_prompts_are_served_by_continuous_batching(folder: Path) -> None:
    (folder / "few.yaml").write_text(PRESET, encoding="utf-8")
    done = llmpq(
        *DEPLOY, "--trace", "few.yaml", "--requests", "5", "--policy", "continuous",
        "--token-budget", "16", "--chunk-tokens", "4", "--admission", "no-evict", "--json",
        "--compare", cwd=folder,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["measured"]["finished"] == 5
    assert told["policy"] == "continuous"
    settings = told["comparison"]["settings"]
    assert (settings["chunk_tokens"], settings["admission"]) == (4, "no-evict")
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
    ((*DEPLOY, "--chunk-tokens", "9"), "--chunk-tokens: is of continuous batching"),
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
    done = called(*arguments, cwd=folder)
    assert done.returncode == 1, done.stdout
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
