"""Plans put into service on traces, through the installed entry point."""

import gzip
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import llmpq

CONV = (
    Path(__file__).resolve().parents[2]
    / "../shared/data/traces/azure-llm-2023/AzureLLMInferenceTrace_conv.csv"
)
SUMMARIES = ("ttft_s", "tpot_s", "itl_s", "latency_s")
HEAD = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
SMALL = ("--trace", "azure-conv", "--requests", "100")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a plan of a small model."""
    made = tmp_path_factory.mktemp("traces")
    done = llmpq(
        "search", "--model", "opt-1.3b", "--cluster", "t4-v100-a100", "--kernels", "spec",
        "--batch", "8", "--prompt-tokens", "64", "--output-tokens", "16",
        "--quality-at-least", "int8", "--generations", "0", "--budget-s", "0", cwd=made,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return made


def simulated(folder: Path, *arguments: str | Path) -> dict[str, Any]:
    done = llmpq("simulate", "plan.json", *arguments, "--json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    loaded = json.loads(done.stdout)
    assert isinstance(loaded, dict)
    return loaded


def refused(folder: Path, *arguments: str | Path) -> str:
    """Return the one message of a command that fails and leaves nothing behind."""
    before = sorted(folder.iterdir())
    done = llmpq("simulate", "plan.json", *arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
    assert sorted(folder.iterdir()) == before
    return done.stderr.removeprefix("error: ").removesuffix("\n")


def trace_file(folder: Path, *rows: str) -> str:
    (folder / "own.csv").write_text(HEAD + "".join(f"{row}\n" for row in rows), encoding="utf-8")
    return "own.csv"


def test_a_preset_is_served_to_the_last_request(folder: Path) -> None:
    found = simulated(folder, *SMALL, "--slo-ttft-ms", "2000", "--slo-tpot-ms", "200")
    assert found["schema"] == "llmpq/simulation"
    assert found["finished"] + found["refused"] == found["requests"]
    assert 0 < found["slo_attainment"] <= 1
    for name in SUMMARIES:
        summary = found[name]
        assert 0 < summary["p50"] <= summary["p90"] <= summary["p95"] <= summary["p99"]
    assert all(0 <= busy <= 1 for busy in found["stage_busy_fraction"])
    assert all(0 <= peak <= 1 for peak in found["kv_peak_fraction"])


def test_the_same_seed_gives_the_same_answer_and_another_another(folder: Path) -> None:
    answers = [simulated(folder, *SMALL, "--seed", seed) for seed in ("1", "1", "2")]
    for answer in answers:
        del answer["wall_seconds"]
    assert answers[0] == answers[1]
    assert answers[0]["trace"]["sha256"] != answers[2]["trace"]["sha256"]


@pytest.mark.parametrize("scaling", ["compress", "superpose"])
def test_a_trace_is_brought_to_a_rate(folder: Path, scaling: str) -> None:
    found = simulated(folder, *SMALL, "--rate", "20", "--rate-scaling", scaling)
    assert found["trace"]["rate_per_s"] == pytest.approx(20, rel=0.5)


def test_laws_give_requests_without_a_trace(folder: Path) -> None:
    found = simulated(
        folder, "--lengths", "D(64,8)", "--arrivals", "poisson", "--requests", "50", "--rate", "5"
    )
    assert (found["finished"], found["output_tokens"]) == (50, 400)


def test_options_of_the_scheduler_reach_it(folder: Path) -> None:
    whole = simulated(folder, *SMALL, "--no-chunked-prefill", "--sequence-limit", "7")
    assert whole["settings"]["chunked_prefill"] is False
    assert whole["settings"]["sequence_limit"] == 7
    given = ("--token-budget", "64", "--chunk-tokens", "32", "--admission", "no-evict")
    small = simulated(folder, *SMALL, *given, "--batches-in-flight", "1")
    settings = small["settings"]
    assert (settings["token_budget"], settings["chunk_tokens"]) == (64, 32)
    assert (settings["admission"], settings["batches_in_flight"]) == ("no-evict", 1)
    assert small["ttft_s"]["p99"] != whole["ttft_s"]["p99"]


def test_prefixes_are_cached_where_the_trace_has_hashes(folder: Path) -> None:
    row = {"timestamp": 0, "input_length": 600, "output_length": 4, "hash_ids": [1, 2]}
    rows = [row | {"timestamp": 5000 * number} for number in range(4)]
    text = "".join(f"{json.dumps(each)}\n" for each in rows)
    (folder / "own.jsonl").write_text(text, encoding="utf-8")
    assert simulated(folder, "--trace", "own.jsonl")["reused_prompt_tokens"] == 3 * 512
    without = simulated(folder, "--trace", "own.jsonl", "--no-prefix-caching")
    assert without["reused_prompt_tokens"] == 0


def test_the_highest_rate_is_found(folder: Path) -> None:
    found = simulated(folder, *SMALL, "--slo-ttft-ms", "200", "--max-rate", "--attainment", "0.8")
    highest = found["max_rate"]
    assert highest["attainment"] == 0.8
    there = simulated(folder, *SMALL, "--slo-ttft-ms", "200", "--rate", str(highest["rate_per_s"]))
    assert there["slo_attainment"] >= 0.8


def test_a_screen_of_88_columns_with_notes_and_pictures(folder: Path) -> None:
    done = llmpq("simulate", "plan.json", *SMALL, "--rate", "2", "--timeline", "t.json", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert max(map(len, done.stdout.splitlines())) <= 88
    for part in ("requests/s", "synthetic, not a recording", "KV peak", "(TTFT)", "By arrival"):
        assert part in done.stdout
    assert re.search(r"Wrote t.json: \d+ visits", done.stdout)
    assert json.loads((folder / "t.json").read_text(encoding="utf-8"))["traceEvents"]


def test_the_plans_own_batch_has_a_timeline(folder: Path) -> None:
    done = llmpq("simulate", "plan.json", "--timeline", "batch.json", cwd=folder)
    assert done.returncode == 0
    assert re.search(r"Wrote batch.json: \d+ visits", done.stdout)
    assert json.loads((folder / "batch.json").read_text(encoding="utf-8"))["traceEvents"]


def test_a_rate_that_cannot_be_held_is_said_with_the_one_that_could(folder: Path) -> None:
    found = simulated(folder, "--trace", "azure-conv", "--requests", "400", "--rate", "400")
    held_per_s = found["queue"]["sustained_rate_per_s"]
    assert found["queue"]["grows"]
    assert 0 < held_per_s < 400
    assert found["notes"][-1].startswith("the queue grows without bound: 400 requests/s arrive")
    arguments = ("--trace", "azure-conv", "--requests", "400", "--rate")
    assert not simulated(folder, *arguments, str(0.8 * held_per_s))["queue"]["grows"]


def test_a_plot_needs_matplotlib_and_says_so(folder: Path) -> None:
    try:
        import matplotlib as _  # noqa: F401
    except ImportError:
        message = refused(folder, *SMALL, "--plot", "p.png")
        assert message == "--plot needs Matplotlib: pip install matplotlib"
        return
    for name, start in (("p.png", b"\x89PNG"), ("p.svg", b"<?xml")):
        done = llmpq("simulate", "plan.json", *SMALL, "--plot", name, cwd=folder)
        assert (done.returncode, done.stderr) == (0, "")
        assert (folder / name).read_bytes().startswith(start)


# ---- what traces may be

NOTES = [
    (
        ["2023-11-16 18:15:46.6805900,374,44"],
        "only one request: it has no rate",
    ),
    (
        ["2023-11-16 18:15:50,374,44", "2023-11-16 18:15:46,50,4"],
        "sorted; earlier than the row before: 1 of 2",
    ),
    (
        ["2023-11-16 18:15:46,0,4", "2023-11-16 18:15:47,-5,3", "2023-11-16 18:15:48,5,3"],
        "dropped of 3 rows: 1 without prompt tokens, 1 with a negative number of tokens",
    ),
]


@pytest.mark.parametrize(("rows", "note"), NOTES, ids=["one row", "unsorted", "zero tokens"])
def test_what_was_assumed_or_dropped_is_noted(folder: Path, rows: list[str], note: str) -> None:
    assert note in simulated(folder, "--trace", trace_file(folder, *rows))["notes"]


BAD_ROWS = [
    ([], "own.csv: expected requests, got no rows"),
    (
        ["2023-11-16 18:15:46,0,4"],
        "own.csv: expected requests, got 1 rows, 1 without prompt tokens",
    ),
    (
        ["2023-11-16 18:15:46,5000,4", "2023-11-16 18:15:47,5,3"],
        "own: 1 of 2 requests exceed the longest context of 2048 tokens, the longest takes 5004; "
        "give --overlong drop or --overlong truncate",
    ),
    (
        ["2023-11-16 18:15:46,5,4", "2023-11-16 18:15:46,many,4"],
        "own.csv line 3, ContextTokens: expected a whole number of at most 10000000 tokens, "
        "got 'many'",
    ),
]


@pytest.mark.parametrize(
    ("rows", "message"), BAD_ROWS, ids=["empty", "no tokens", "overlong", "a word"]
)
def test_a_bad_trace_is_one_message(folder: Path, rows: list[str], message: str) -> None:
    assert refused(folder, "--trace", trace_file(folder, *rows)) == message


def test_overlong_requests_are_dropped_or_cut_if_told(folder: Path) -> None:
    name = trace_file(folder, "2023-11-16 18:15:46,5000,4", "2023-11-16 18:15:47,5,3")
    assert simulated(folder, "--trace", name, "--overlong", "drop")["requests"] == 1
    assert simulated(folder, "--trace", name, "--overlong", "truncate")["requests"] == 2


def test_damaged_and_binary_files_are_one_message(folder: Path) -> None:
    packed = gzip.compress((HEAD + "2023-11-16 18:15:46,5,4\n" * 50).encode())
    (folder / "cut.csv.gz").write_bytes(packed[: len(packed) // 2])
    assert "cut.csv.gz: the packed file is damaged or cut short" in refused(
        folder, "--trace", "cut.csv.gz"
    )
    (folder / "binary.csv").write_bytes(bytes(range(256)) * 8)
    assert refused(folder, "--trace", "binary.csv") == (
        "binary.csv: expected a trace as text, got a binary file"
    )


OPTIONS = [
    (
        ("--trace", "azure-con"),
        "--trace: expected the name of a workload, got 'azure-con'; did you mean azure-conv or "
        "azure-code?",
    ),
    (("--trace", "no.csv"), "cannot read no.csv: No such file or directory"),
    (("--rate", "2"), "--rate: give --trace or --lengths as well"),
    (("--slo-ttft-ms", "2"), "--slo-ttft-ms: give --trace or --lengths as well"),
    ((*SMALL, "--batch", "2"), "--batch: a trace brings its own requests"),
    (
        (*SMALL, "--max-rate"),
        "--max-rate: expected at least one of --slo-ttft-ms, --slo-tpot-ms and --slo-e2e-ms",
    ),
    (
        (*SMALL, "--slo-tpot-ms", "-1"),
        "--slo-tpot-ms: expected a positive number of milliseconds, got -1.0",
    ),
    (
        (*SMALL, "--slo-tpot-ms", "9", "--max-rate", "--attainment", "2"),
        "--attainment: expected a share above 0 and up to 1, got 2.0",
    ),
    ((*SMALL, "--rate", "0"), "--rate: expected 1e-06 to 1e+09 requests/s, got 0"),
    ((*SMALL, "--plot", "p.pdf"), "--plot: expected a file that ends in .png or .svg, got p.pdf"),
]


@pytest.mark.parametrize(("arguments", "message"), OPTIONS, ids=lambda part: str(part)[:50])
def test_options_that_cannot_be_are_one_message(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    assert refused(folder, *arguments) == message


def test_a_plan_without_room_for_requests_says_what_it_lacks(folder: Path) -> None:
    message = refused(folder, *SMALL, "--token-budget", "1000000")
    assert message.startswith("does not fit: stage 0 on ")
    assert message.endswith("lower --token-budget, or search for a plan for this trace")


def test_the_azure_conversations_are_served(folder: Path) -> None:
    if not CONV.exists():
        pytest.skip(f"no {CONV.name}")
    found = simulated(
        folder, "--trace", CONV, "--slo-ttft-ms", "2000", "--slo-tpot-ms", "200",
        "--overlong", "drop",
    )  # fmt: skip
    assert found["requests"] == found["finished"]
    assert found["requests"] == 16528
    assert found["trace"]["rate_per_s"] == pytest.approx(5, abs=0.6)


def test_a_log_of_another_tool_is_read_by_columns_that_are_named(folder: Path) -> None:
    rows = [{"at": f"2026-01-01T00:00:0{n}Z", "n": {"in": 9, "out": 2}} for n in range(3)]
    (folder / "own.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    said = refused(folder, "--trace", "own.jsonl")
    assert "name yours as in --columns time=" in said
    named = ("--columns", "time=at,prompt=n.in,output=n.out")
    found = simulated(folder, "--trace", "own.jsonl", *named)
    assert (found["requests"], found["trace"]["rate_per_s"]) == (3, 1.5)
    listed = json.loads(llmpq("list", "traces", "--json", cwd=folder).stdout)["traces"]
    assert {"azure-conv", "mooncake", "litellm"} <= {entry["name"] for entry in listed}
    links = json.loads(llmpq("list", "links", "--json", cwd=folder).stdout)["links"]
    assert all(link["latency_s"] > 0 and link["bytes_per_s"] > 0 for link in links)
