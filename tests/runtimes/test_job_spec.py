"""Job files: every process reads the job that was written."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.files import LARGEST_FILE_BYTES, json_text, parse_json
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from runtimes.base import Sampling, TokenRequest
from runtimes.torch_pipeline.processes.job_spec import (
    FILE_NAME,
    JobSpec,
    StageSpec,
    read_job,
    write_job,
)

COUNTS = st.integers(1, 10**6)
NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8)
WORDS = st.from_regex(r"[a-z][a-z0-9:-]{0,8}", fullmatch=True)
TOKENS = st.lists(st.integers(0, 10**6), max_size=5).map(tuple)

SAMPLINGS = st.builds(
    Sampling,
    temperature=st.floats(0, 10),
    top_k=st.integers(0, 10**5),
    top_p=st.floats(1e-6, 1.0),
    seed=st.integers(0, 2**63 - 1),
)
REQUESTS = st.builds(
    TokenRequest,
    name=NAMES,
    prompt=st.lists(st.integers(0, 10**6), min_size=1, max_size=5).map(tuple),
    output_tokens=COUNTS,
    sampling=SAMPLINGS,
    stop_tokens=TOKENS,
    arrival_s=st.floats(0, 1e6),
)
STAGES = st.builds(
    StageSpec,
    name=WORDS,
    first_layer=st.integers(0, 200),
    formats=st.lists(st.sampled_from(("int3", "int4", "bf16")), min_size=1, max_size=4).map(tuple),
    device=WORDS,
    cores=st.lists(st.integers(0, 300), max_size=4, unique=True).map(tuple),
    dense_from_tokens=st.dictionaries(st.sampled_from(("int8", "int4")), st.integers(0, 99)),
    is_dense_only=st.booleans(),
    memory_limit_bytes=st.none() | st.integers(1, 2**50),
)


@st.composite
def service_settings(draw: st.DrawFn) -> ContinuousSettings:
    budget = draw(st.integers(1, 4096))
    chunked = budget < 2 or draw(st.booleans())
    return ContinuousSettings(
        token_budget=budget,
        sequence_limit=draw(st.integers(1, budget)),
        longest_context_tokens=draw(st.integers(2, 10**6 if chunked else budget)),
        chunked_prefill=chunked,
        block_tokens=draw(st.integers(1, 64)),
        prefix_caching=draw(st.booleans()),
        schedules_ahead=draw(st.booleans()),
        admission=draw(st.sampled_from(("evict", "no-evict"))),
        chunk_tokens=draw(st.none() | st.integers(1, 4096)) if chunked else None,
        batches_in_flight=draw(st.none() | st.integers(1, 8)),
    )


JOBS = st.builds(
    JobSpec,
    model_dir=WORDS.map(Path),
    dtype=st.sampled_from(("bf16", "fp16", "fp32")),
    stages=st.lists(STAGES, min_size=1, max_size=3).map(tuple),
    batch=COUNTS,
    micro_batching=st.builds(MicroBatching, COUNTS, COUNTS, COUNTS, st.none() | COUNTS),
    settings=st.none() | service_settings(),
    cache_rows=COUNTS,
    cache_context_tokens=COUNTS,
    requests=st.lists(REQUESTS, min_size=1, max_size=4).map(tuple),
    weight_cache=st.none() | WORDS.map(Path),
    uses_cuda_graphs=st.booleans(),
    quantizers=st.dictionaries(WORDS, WORDS),
    batch_invariant=st.booleans(),
)


@given(JOBS)
@settings(max_examples=40)
def test_a_job_is_read_as_it_was_written(job: JobSpec) -> None:
    text = json_text(to_dict(job))
    assert from_dict(JobSpec, Fields(parse_json(text, "job"), "job")) == job


def example() -> JobSpec:
    stage = StageSpec("a", 0, ("int4",), "cpu", (0,), {"int4": 8, "fp16": 0}, False, None)
    one = TokenRequest("one", (1, 2), 3)
    batching = MicroBatching(1, 1, 1)
    return JobSpec(Path("m"), "bf16", (stage,), 1, batching, None, 1, 5, (one,), None)


def test_a_format_may_be_dense_from_no_tokens_on(tmp_path: Path) -> None:
    write_job(tmp_path, example())
    assert read_job(tmp_path) == example()


def test_a_job_larger_than_other_files_may_be_is_read(tmp_path: Path) -> None:
    name = "x" * (LARGEST_FILE_BYTES + 1)
    large = replace(example(), requests=(TokenRequest(name, (1, 2), 3),))
    write_job(tmp_path, large)
    assert read_job(tmp_path) == large


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    content = to_dict(example())
    del content["requests"][0]["prompt"]
    (tmp_path / FILE_NAME).write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"job.json.requests\[0\].*prompt"):
        read_job(tmp_path)
