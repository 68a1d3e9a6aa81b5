"""Whole files of every kind that the planner reads, and how each is used."""

import gzip
import io
import json
import tarfile
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import yaml

from llmpq_sim.api.prediction import predict
from llmpq_sim.core.records import to_dict
from llmpq_sim.io.bundled_models import bundled_record
from llmpq_sim.io.checkpoints import load_checkpoint, write_checkpoint
from llmpq_sim.io.clusters import cluster_to_dict, load_cluster
from llmpq_sim.io.executions import load_execution
from llmpq_sim.io.files import json_text, sha256_of
from llmpq_sim.io.measurements import read_measurements
from llmpq_sim.io.model_records import model_to_dict
from llmpq_sim.io.models import load_model, read_model
from llmpq_sim.io.plans import load_plan, outcome_to_dict
from llmpq_sim.io.presets import load_preset
from llmpq_sim.io.profiles import load_profile, machine_beside
from llmpq_sim.io.quality import load_quality, quality_to_dict
from llmpq_sim.io.resources import bundled_dir
from llmpq_sim.io.tasks import load_output_lengths, load_sensitivity
from llmpq_sim.io.workloads import TraceOptions, load_workload
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.search.planner import SearchSettings, search
from llmpq_sim.search.scoring import score_plan
from llmpq_sim.workloads.generate import synthesize
from tests import trace_contents
from tests.executions import executed, poisson, saved_plan
from tests.fuzz.kinds import Kind
from tests.fuzz.runtime_inputs import runtime_kinds
from tests.local_rows import local_machine
from tests.measured import attention_row, gemm_row, lab_device
from tests.qualities import measured_quality
from tests.reports import small_task
from tests.unit.test_device_files import CARD

__all__ = ["Kind", "all_kinds"]

CONFIGS = (
    "opt-125m",
    "gemma-3-4b",
    "gpt-oss-20b",
    "jamba-v0.1",
    "kimi-k2.5",
    "nemotron-3-super-120b",
    "nemotron-super-49b",
    "qwen3-next-80b-a3b",
)
"""Bundled models whose configs have what others have not."""

CSV_TRACES = (
    trace_contents.AZURE,
    "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
    "5,ChatGPT,472,18,490,Conversation log\n205,ChatGPT,36,29,65,API log\n",
    "arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,374,44\n4.25,396,109\n",
    "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,token_size\n"
    "0,2,0,1,1,4096,32\n1,2,0,1.5,1,8,2\n",
    "request_id,input_tokens,output_tokens,arrival_time_us\n0,9,3,500\n1,8,2,2500500\n",
    "input_length,output_length\n512,128\n64,8\n",
    "startTime;prompt_tokens;completion_tokens\n2026-01-01T00:00:00.5Z;9;3\n",
    "time\tprompt_tokens\tcompletion_tokens\n1771000000000\t9\t3\n1771000000500\t9\t\n",
)

JSON_TRACES: tuple[list[Any], ...] = (
    [{"created": 5, "usage": {"prompt_tokens": 9, "completion_tokens": 2}}, {"usage": None}],
    [{"start_time": "2026-01-01 00:00:00Z", "attributes": {"gen_ai.usage.input_tokens": 3}}],
    [trace_contents.mooncake(t, 600, 2, hash_ids=[1, t]) for t in (0, 7, 900)],
    [trace_contents.mooncake(1.5, chat_id=1, parent_chat_id=-1, hash_ids=[5]), {"x": 1}],
    [
        {"input_toks": 1472, "output_toks": 133, "arrival_time_ns": 4_000_000_000},
        {"session_id": "s", "arrival_time_ns": 5, "sub_requests": [{"input_toks": 9}]},
    ],
    [{"timestamp": 6011, "requests": [{"prompt_length": 5, "output_length": 6}] * 2}],
    [
        {
            "timestamp": 9,
            "event": {
                "schema": "dynamo.request.trace.v1",
                "request": {
                    "input_tokens": 100,
                    "output_tokens": 7,
                    "request_received_ms": 10,
                    "replay": {"trace_block_size": 64, "input_sequence_hashes": [1, 2]},
                },
            },
        }
    ],
    trace_contents.SHAREGPT,
    [{"prompt": "a" * 9, "output_tokens": 4}],
    [json.loads(line) for line in trace_contents.BATCH.split("\n")],
)


@cache
def all_kinds() -> list[Kind]:
    """Return every kind of file that is read."""
    return [*_hand_written(), *_tables(), *_traces(), *_of_a_plan(), *runtime_kinds()]


def _hand_written() -> list[Kind]:
    configs = tuple(dict(bundled_record(name).config) for name in CONFIGS)
    awq = {"quant_method": "awq", "bits": 4, "group_size": 128}
    quantized = configs[0] | {"quantization_config": awq}
    clusters = [
        yaml.safe_load((bundled_dir("cluster_profiles") / f"clusters/{name}.yaml").read_bytes())
        for name in ("t4-v100-a100", "paper-3")
    ]
    presets = [
        yaml.safe_load((bundled_dir("traces") / f"{name}.yaml").read_bytes())
        for name in ("llmpq-default", "mooncake-prefixes", "burstgpt")
    ]
    devices = {**clusters[0], "device_types": [CARD]}
    sensitivity = {"schema": "llmpq/sensitivity", "version": 1, "model": "opt-125m"}
    return [
        Kind("config", "config.json", configs, lambda path: model_to_dict(load_model(str(path)))),
        Kind("stored", "config.json", (quantized,), lambda path: read_model(str(path))),
        Kind("cluster", "lab.yaml", tuple(clusters), _use_cluster),
        Kind("devices", "lab.yaml", (devices,), _use_cluster),
        Kind("preset", "made.yaml", tuple(presets), _use_preset),
        Kind("lengths", "lengths.txt", (b"8\n16\n\n4\n",), load_output_lengths),
        Kind(
            "sensitivity",
            "s.json",
            ({**sensitivity, "sensitivity": [1.0] * 12},),
            lambda path: load_sensitivity(path, load_model("opt-125m")),
        ),
        Kind(
            "quality",
            "quality.json",
            (quality_to_dict(measured_quality(load_model("opt-125m"))),),
            lambda path: load_quality(path).table(12),
        ),
        Kind(
            "machine",
            "rows.machine.json",
            (to_dict(local_machine()),),
            lambda path: machine_beside(path.with_name("rows.csv")),
        ),
        Kind("profile", "own.json", (to_dict(spec_profile(lab_device())),), _use_profile),
    ]


def _use_cluster(path: Path) -> object:
    return sha256_of(cluster_to_dict(load_cluster(str(path))))


def _use_preset(path: Path) -> object:
    return synthesize(load_preset(str(path)), 20, None, np.random.default_rng(0))


def _use_profile(path: Path) -> object:
    profile = load_profile(path)
    tokens = np.array([1.0, 64.0, 100_000.0])
    for name in profile.formats:
        profile.gemm_s(name, tokens, 4096.0, 4096.0)
    profile.elementwise_s(tokens)
    profile.decode_attention_s(tokens, tokens, 32, 8, 64)
    return sha256_of(to_dict(profile))


# ---- rows


def _tables() -> list[Kind]:
    rows = [gemm_row(), attention_row(), gemm_row(m=64.0)]
    names = list(dict.fromkeys(name for row in rows for name in row))
    cells = [[row.get(name, "") for name in names] for row in rows]
    text = "\n".join(",".join(map(str, line)) for line in [names, *cells]) + "\n"
    columns = {name: [row.get(name) for row in rows] for name in names}
    tables = []
    for compression in ("none", "snappy"):
        stream = io.BytesIO()
        pyarrow.parquet.write_table(pyarrow.table(columns), stream, compression=compression)
        tables.append(stream.getvalue())
    return [
        Kind("rows", "rows.csv", (text.encode(),), read_measurements),
        Kind(
            "rows-packed",
            "rows.csv.gz",
            (gzip.compress(text.encode(), mtime=0),),
            read_measurements,
        ),
        Kind("parquet", "rows.parquet", tuple(tables), read_measurements),
    ]


# ---- traces


def _traces() -> list[Kind]:
    texts = tuple(text.encode() for text in CSV_TRACES)
    return [
        Kind("trace-csv", "trace.csv", texts, _use_trace),
        Kind("trace-json", "trace.jsonl", JSON_TRACES, _use_trace, lines=True),
        Kind("trace-packed", "trace.gz", tuple(map(gzip.compress, texts)), _use_trace),
        Kind("trace-tar", "clients.tar.gz", (_clients(),), _use_trace),
    ]


def _use_trace(path: Path) -> object:
    options = TraceOptions(
        str(path), rate_per_s=2.0, chars_per_token=4.0, requests=50, overlong="truncate"
    )
    return load_workload(options, 4096)


def _clients() -> bytes:
    files = {
        "chunk-0-trace.csv": b"0,2,1.0,Gamma,1.0,0.5\n600,1,1.0,Weibull,0.9,0.5\n",
        "chunk-0-dataset.json": json.dumps(
            {"0": {"input_tokens": "{45: 0.25, 46: 0.75}", "output_tokens": "{5: 1.0}"}}
        ).encode(),
    }
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"pool/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


# ---- plans, and what is measured of them


def _of_a_plan() -> list[Kind]:
    saved, task = saved_plan(), small_task()
    states: list[Any] = []
    settings = SearchSettings(seed=1, generations=1)
    outcome = search(task, settings, on_state=states.append)
    plan = json.loads(json_text(outcome_to_dict(outcome, saved.target)))
    execution = json.loads(json_text(to_dict(executed(saved, poisson(6)))))
    with TemporaryDirectory() as folder:
        kept = Path(folder) / "checkpoint.json"
        write_checkpoint(kept, states[-1], "0" * 64)
        checkpoint = json.loads(kept.read_bytes())
    return [
        Kind("plan", "plan.json", (plan,), _use_plan, repair=_rehashed),
        Kind(
            "checkpoint",
            "c.json",
            (checkpoint,),
            lambda path: load_checkpoint(path, task, "0" * 64),
        ),
        Kind(
            "execution",
            "result.json",
            (execution,),
            lambda path: predict(saved, execution=load_execution(path)),
        ),
    ]


def _use_plan(path: Path) -> object:
    saved = load_plan(path, {})
    return score_plan(saved.plan, saved.task)


def _rehashed(content: Any) -> Any:
    """Return a changed plan whose hashes are right again."""
    inputs = content.get("inputs") if isinstance(content, dict) else None
    if isinstance(inputs, dict) and isinstance(inputs.get("sha256"), dict):
        for name in inputs["sha256"]:
            with suppress(ValueError):  # numbers that are not finite have no hash
                inputs["sha256"][name] = sha256_of(inputs.get(name))
    return content
