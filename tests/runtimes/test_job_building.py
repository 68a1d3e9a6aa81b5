"""Jobs made of plans: devices and cores, data type, size of the cache."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.errors import InfeasibleError, InputError, LlmpqError
from llmpq_sim.core.machine import Machine
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.units import GIB, MIB
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.quality.measured import MEASURES, MeasuredQuality, TextFacts
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from runtimes.base import Job, Policy, RuntimeOptions, TokenRequest
from runtimes.testing import saved_plan
from runtimes.torch_pipeline.processes.job_building import (
    build_job,
    cache_shape,
    check_job,
    dtype_of,
    is_cpu,
    local_stages,
    stage_cores,
    stage_devices,
    stage_nodes,
    stage_profiles,
    stage_specs,
)
from tests.runtimes.models import save_model

CUTS = [("int8",), ("bf16", "int4"), ("int3",)]
SETTINGS = ContinuousSettings(token_budget=16, sequence_limit=4, longest_context_tokens=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("model"))


def requests(count: int, prompt: int = 4, outputs: int = 6) -> tuple[TokenRequest, ...]:
    return tuple(
        TokenRequest(f"request-{i}", (3,) * prompt, outputs, arrival_s=0.5 * i)
        for i in range(count)
    )


def job(folder: Path, *, settings: ContinuousSettings | None = None, **others: Any) -> Job:
    """Return a job of four requests, with other options or another plan."""
    options = {name: others.pop(name) for name in list(others) if name in OPTIONS}
    count = others.pop("count", 4)
    asked = others.pop("asked", None) or requests(count)
    saved = others.pop("saved", None) or saved_plan(folder, others.pop("shards", CUTS), **others)
    policy: Policy = "static" if settings is None else "continuous"
    return Job(saved, asked, folder, policy, settings, RuntimeOptions(**options))


OPTIONS = RuntimeOptions.__dataclass_fields__


def with_profile(saved: SavedPlan, **changes: Any) -> SavedPlan:
    """Return a plan whose devices have another profile."""
    costs = saved.task.costs
    profile = replace(costs.profiles["cpu"], **changes)
    return replace(
        saved, task=replace(saved.task, costs=type(costs)(costs.scenario, {"cpu": profile}))
    )


def machine(torch_device: str = "cpu", threads: int = 1) -> Machine:
    return Machine(
        "here", torch_device, "a processor", threads, GIB, 1e10, 1e10, 1, MIB, MIB, ("bf16",), "2"
    )


def with_formats(saved: SavedPlan, formats: tuple[str, ...]) -> SavedPlan:
    """Return a plan whose devices run other formats."""
    costs = saved.task.costs
    cluster = costs.scenario.cluster
    members = tuple(
        replace(one, device=replace(one.device, formats=formats)) for one in cluster.devices
    )
    scenario = replace(costs.scenario, cluster=replace(cluster, devices=members))
    return replace(saved, task=replace(saved.task, costs=type(costs)(scenario, costs.profiles)))


def with_quantizers(saved: SavedPlan, quantizers: dict[str, str]) -> SavedPlan:
    """Return a plan whose quality was measured with these quantizers."""
    text = TextFacts("text", "0", 8, 1, 8)
    kl = ("kl", MEASURES["kl"], 0, "model", "0", "0")
    measured = MeasuredQuality(*kl, text, quantizers, 1.0, None, ())
    return replace(saved, target=replace(saved.target, measured=measured))


# ---- devices, machines, cores


def test_a_profile_says_whether_it_is_of_a_processor(folder: Path) -> None:
    profile = stage_profiles(job(folder))[0]
    assert is_cpu(profile)
    assert not is_cpu(replace(profile, device="a100-sxm"))
    assert is_cpu(replace(profile, device="a100-sxm", machine=machine("cpu")))
    assert not is_cpu(replace(profile, machine=machine("cuda")))


def test_gpus_are_numbered_within_a_machine(folder: Path) -> None:
    nodes = ("a", "b", "b")
    on_gpus = with_profile(saved_plan(folder, CUTS, nodes=nodes), machine=machine("cuda"))
    assert stage_devices(job(folder, saved=on_gpus)) == ["cuda:0", "cuda:1", "cuda:2"]
    apart = job(folder, saved=on_gpus, nodes=2)
    assert stage_devices(apart) == ["cuda:0", "cuda:0", "cuda:1"]
    assert stage_devices(job(folder)) == ["cpu"] * 3
    given = ("cpu", "cuda:1", "cpu")
    assert stage_devices(job(folder, saved=on_gpus, devices=given)) == list(given)


def test_stages_are_of_the_machines_of_the_plan(folder: Path) -> None:
    nodes = ("z", "z", "a")
    for rank, own in ((0, range(2)), (1, range(2, 3))):
        of_two = job(folder, nodes=2, node_rank=rank, saved=saved_plan(folder, CUTS, nodes=nodes))
        assert stage_nodes(of_two) == [0, 0, 1]
        assert local_stages(of_two) == own
    of_one = job(folder, saved=saved_plan(folder, CUTS, nodes=nodes))
    assert local_stages(of_one) == range(3)


def test_machines_that_a_plan_returns_to_are_refused(folder: Path) -> None:
    back = saved_plan(folder, CUTS, nodes=("a", "b", "a"))
    with pytest.raises(InputError, match="in the order 0, 1, 0"):
        check_job(job(folder, saved=back, nodes=2, master="h:1"))


@pytest.mark.parametrize(
    ("available", "threads", "expected"),
    [
        (range(6), None, [(0, 1), (2, 3), (4, 5)]),
        (range(2), None, [(0,), (1,), (0,)]),
        (range(7), None, [(0, 1), (2, 3), (4, 5)]),
        (range(4, 8), 1, [(4,), (5,), (6,)]),
        (range(8), 2, [(0, 1), (2, 3), (4, 5)]),
        (range(4), 2, [(0, 1), (2, 3), (0, 1)]),
        (range(2), 16, [(0, 1), (0, 1), (0, 1)]),
    ],
)
def test_stages_have_cores_of_their_own_while_there_are_enough(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    available: range,
    threads: int | None,
    expected: list[tuple[int, ...]],
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(available))
    saved = saved_plan(folder, CUTS)
    if threads is not None:
        saved = with_profile(saved, machine=machine(threads=threads))
    assert stage_cores(job(folder, saved=saved)) == expected


def test_only_processor_stages_of_this_machine_are_given_cores(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    saved = saved_plan(folder, CUTS, nodes=("a", "b", "b"))
    second = job(folder, saved=saved, nodes=2, node_rank=1, devices=("cpu", "cuda:0", "cpu"))
    assert stage_cores(second) == [(), (), (0, 1)]


# ---- types, memory, kernels


@pytest.mark.parametrize(
    ("formats", "able", "asked", "expected"),
    [
        (("int4",) * 4, ("int4", "bf16", "fp16"), None, "bf16"),
        (("int4",) * 4, ("int4", "fp16"), None, "fp16"),
        (("fp16", *("int4",) * 3), ("int4", "bf16", "fp16"), None, "fp16"),
        (("bf16", *("int4",) * 3), ("int4", "bf16", "fp16"), None, "bf16"),
        (("int4",) * 4, ("int4", "bf16", "fp16"), "fp32", "fp32"),
    ],
)
def test_the_type_is_what_all_devices_have(
    folder: Path, formats: tuple[str, ...], able: tuple[str, ...], asked: str | None, expected: str
) -> None:
    saved = with_formats(saved_plan(folder, [formats[:1], formats[1:]]), able)
    assert dtype_of(job(folder, saved=saved, dtype=asked)) == expected


def test_stages_are_as_the_plan_has_them(folder: Path) -> None:
    saved = with_profile(saved_plan(folder, CUTS), dense_from_tokens={"int8": 9})
    specs = stage_specs(job(folder, saved=saved))
    assert [spec.first_layer for spec in specs] == [0, 1, 3]
    assert [spec.formats for spec in specs] == CUTS
    assert [spec.name for spec in specs] == ["cpu-0", "cpu-1", "cpu-2"]
    assert [spec.dense_from_tokens for spec in specs] == [{"int8": 9}] * 3
    assert not any(spec.is_dense_only or spec.memory_limit_bytes for spec in specs)
    dense = with_profile(saved, kernels="torch-dense")
    limited = stage_specs(job(folder, saved=dense, enforces_memory=True))
    assert all(spec.is_dense_only for spec in limited)
    assert [spec.memory_limit_bytes for spec in limited] == [4 * GIB] * 3


# ---- cache and requests


@pytest.mark.parametrize(
    ("batch", "batching", "count", "rows"),
    [
        (5, (2, 4, 1), 5, 3),
        (5, (2, 4, 1), 9, 4),  # the last batch of four has one group, not two
        (7, (1, 3, 2), 7, 5),
        (7, (1, 3, 2), 13, 6),
        (4, (2, 2, 2), 8, 4),
        (4, (2, 2, 1), 1, 2),
    ],
)
def test_a_static_cache_has_the_rows_of_the_largest_wave(
    folder: Path, batch: int, batching: tuple[int, int, int], count: int, rows: int
) -> None:
    saved = saved_plan(
        folder, CUTS, micro_batching=MicroBatching(*batching), output_tokens=(6,) * batch
    )
    assert cache_shape(job(folder, saved=saved, count=count)) == (rows, 18)


def test_a_continuous_cache_has_rows_for_the_longest_request(folder: Path) -> None:
    asked = (*requests(5), TokenRequest("long", (3,) * 20, 13))
    assert cache_shape(job(folder, settings=SETTINGS, asked=asked)) == (4, 33)
    assert cache_shape(job(folder, settings=SETTINGS, count=2)) == (2, 10)
    many = replace(SETTINGS, sequence_limit=16)
    assert cache_shape(job(folder, settings=many, count=9)) == (9, 10)


def test_a_continuous_cache_keeps_to_the_room_of_the_tightest_stage(folder: Path) -> None:
    wide = replace(SETTINGS, token_budget=4096, sequence_limit=4096)
    asked = requests(4096, prompt=90, outputs=30)
    rows, tokens = cache_shape(
        job(
            folder,
            settings=wide,
            asked=asked,
            saved=saved_plan(folder, CUTS, memory_bytes=GIB + 128 * MIB),
        )
    )
    assert tokens == 120
    assert 0 < rows < 4096
    tight = saved_plan(folder, CUTS, memory_bytes=2**20)
    with pytest.raises(InfeasibleError, match=r"room for 0|does not fit"):
        cache_shape(job(folder, settings=wide, asked=asked, saved=tight))


def test_the_sequence_limit_is_at_most_the_rows(folder: Path) -> None:
    spec = build_job(job(folder, settings=SETTINGS, count=2))
    assert spec.settings == replace(SETTINGS, sequence_limit=2)
    assert spec.cache_rows == 2
    assert [one.arrival_s for one in spec.requests] == [0.0, 0.5]


def test_the_static_policy_knows_no_arrivals(folder: Path) -> None:
    spec = build_job(job(folder))
    assert spec.settings is None
    assert [one.arrival_s for one in spec.requests] == [0.0] * 4
    assert (spec.batch, spec.micro_batching) == (4, MicroBatching(2, 2, 2))


def test_weights_are_quantized_as_the_plan_s_quality_was_measured(folder: Path) -> None:
    saved = saved_plan(folder, CUTS)
    assert build_job(job(folder, saved=saved)).quantizers == {}
    quantizers = {"int8": "rtn", "int4": "hqq", "int3": "rtn"}
    measured = job(folder, saved=with_quantizers(saved, quantizers))
    check_job(measured)
    assert build_job(measured).quantizers == quantizers
    unknown = job(folder, saved=with_quantizers(saved, {"int4": "gptq"}))
    with pytest.raises(InputError, match=r"plan: expected a quantizer .*, got 'gptq'"):
        check_job(unknown)


def test_a_prompt_that_no_budget_holds_whole_is_refused(folder: Path) -> None:
    whole = replace(SETTINGS, token_budget=64, chunked_prefill=False)
    asked = (TokenRequest("long", (3,) * 70, 5),)
    with pytest.raises(InputError, match="request long: has 70 prompt and 5 output tokens"):
        check_job(job(folder, settings=whole, asked=asked))
    check_job(job(folder, settings=whole, asked=(TokenRequest("fits", (3,) * 59, 5),)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_dir": None}, "--model-dir: the torch runtime needs"),
        ({"requests": ()}, "requests: expected at least one"),
        ({"policy": "continuous"}, "policy continuous: expected settings"),
        ({"requests": requests(1) * 2}, "requests: expected distinct names"),
        ({"requests": (TokenRequest("a", (), 1),)}, "request a: expected token ids"),
        ({"requests": (TokenRequest("a", (199,), 1),)}, "request a: expected token ids"),
        ({"requests": (TokenRequest("a", (1,), 0),)}, "request a: expected at least 1 token"),
        ({"requests": (TokenRequest("a", (1,) * 10, 9),)}, "request a: has 10 prompt and 9"),
    ],
)
def test_a_job_that_cannot_be_is_refused(
    folder: Path, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(LlmpqError) as refused:
        check_job(replace(job(folder), **change))
    assert str(refused.value).startswith(message)
