"""Contract of a runtime, as tests that any package with a runtime can run.

Subclass ``RuntimeContract``, say which runtime it is, and let pytest collect the class::

    import pytest
    from runtimes.base import Runtime, load_runtime
    from runtimes.testing import RuntimeContract

    class TestMyRuntime(RuntimeContract):
        @pytest.fixture(scope="class")
        @classmethod
        def runtime(cls) -> Runtime:
            return load_runtime("mine")

Each test is a law that a runtime keeps. All are about one tiny model, which is written on the spot
and needs no PyTorch; a runtime that takes other options than the default ones overrides ``job``.
Besides pytest this needs what ``llmpq[torch]`` installs: safetensors and psutil.
"""

import json
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import psutil
import pytest
from safetensors.numpy import save_file

from llmpq_sim.core.cluster import Cluster, ClusterDevice, Device, Link
from llmpq_sim.core.errors import LlmpqError
from llmpq_sim.core.execution import Execution
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.core.units import GIB, MIB
from llmpq_sim.io.models import load_model
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.quality.table import nominal_quality
from llmpq_sim.search.bound.bound import Certificate
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from runtimes.base import Completion, Job, Runtime, RuntimeOptions, Sampling, TokenRequest

ALL_FORMATS = ("int3", "int4", "int8", "fp16", "bf16")

VOCABULARY, LAYERS, HIDDEN, INNER, KEYS = 199, 4, 64, 96, 32

TINY_MODEL = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": HIDDEN,
    "intermediate_size": INNER,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "dtype": "float32",
}
"""The config.json of a model that every runtime of Llama's family carries out in a moment."""

WEIGHT_SPREAD = 0.15
"""Standard deviation of its weights: so wide that rounding rarely changes a token."""

REQUESTS = tuple(
    TokenRequest(f"request-{number}", tuple(range(3 + number, 8 + 2 * number)), tokens)
    for number, tokens in enumerate((6, 1, 4, 6, 3))
)
SHARDS: list[tuple[str, ...]] = [("int8",), ("bf16", "int4", "int3")]
SAMPLED = Sampling(temperature=1.0, top_k=50, top_p=0.95, seed=7)
SETTINGS = ContinuousSettings(token_budget=16, sequence_limit=4, longest_context_tokens=64)


def write_tiny_model(folder: Path, seed: int = 0) -> Path:
    """Write ``TINY_MODEL`` with random weights in Hugging Face's layout, and return its folder.

    Args:
        folder: it must be there.
        seed: of the weights.
    """
    rng = np.random.default_rng(seed)
    tensors = {
        name: np.ones(shape, np.float32)
        if len(shape) == 1
        else rng.normal(0.0, WEIGHT_SPREAD, shape).astype(np.float32)
        for name, shape in _tiny_shapes().items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps(TINY_MODEL, indent=1), encoding="utf-8")
    return folder


def _tiny_shapes() -> dict[str, tuple[int, ...]]:
    vocabulary, hidden, inner, keys = VOCABULARY, HIDDEN, INNER, KEYS
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for number in range(LAYERS):
        layer = f"model.layers.{number}"
        shapes |= {
            f"{layer}.self_attn.q_proj.weight": (hidden, hidden),
            f"{layer}.self_attn.k_proj.weight": (keys, hidden),
            f"{layer}.self_attn.v_proj.weight": (keys, hidden),
            f"{layer}.self_attn.o_proj.weight": (hidden, hidden),
            f"{layer}.mlp.gate_proj.weight": (inner, hidden),
            f"{layer}.mlp.up_proj.weight": (inner, hidden),
            f"{layer}.mlp.down_proj.weight": (hidden, inner),
            f"{layer}.input_layernorm.weight": (hidden,),
            f"{layer}.post_attention_layernorm.weight": (hidden,),
        }
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def core(name: str, memory_bytes: int = 4 * GIB) -> Device:
    """Return a processor core as a kind of device."""
    return Device(
        name=name,
        memory_bytes=memory_bytes,
        memory_bytes_per_s=1e10,
        flops_per_s=5e10,
        multiprocessors=1,
        l2_bytes=32 * MIB,
        compute_fraction=1.0,
        memory_fraction=1.0,
        formats=ALL_FORMATS,
        kernels=("spec",),
        source="made up",
    )


def saved_plan(
    folder: Path,
    shards: list[tuple[str, ...]],
    *,
    micro_batching: MicroBatching | None = None,
    prompt_tokens: int = 12,
    output_tokens: tuple[int, ...] = (6, 6, 6, 6),
    nodes: tuple[str, ...] | None = None,
    memory_bytes: int = 4 * GIB,
) -> SavedPlan:
    """Return a plan for the model in a folder, as a search would have saved it.

    Args:
        folder: of the model.
        shards: formats of the layers of each stage.
        micro_batching: two rows at a time, two groups in flight, unless told.
        prompt_tokens: of each request of the batch it is made for.
        output_tokens: of each of these requests.
        nodes: the machine of each stage; one for all unless told.
        memory_bytes: of each device.
    """
    device = core("cpu", memory_bytes)
    names = nodes or ("node-0",) * len(shards)
    members = tuple(ClusterDevice(f"cpu-{i}", device, names[i]) for i in range(len(shards)))
    pairs = [(i, j) for i in range(len(shards)) for j in range(i + 1, len(shards))]
    cluster = Cluster("cores", members, {pair: Link(5e-5, 5e9) for pair in pairs})
    model = load_model(str(folder))
    scenario = Scenario(model, cluster, BatchWorkload(prompt_tokens, output_tokens))
    stages = tuple(Stage(f"cpu-{i}", formats) for i, formats in enumerate(shards))
    task = PlanningTask(
        LayerCosts(scenario, {"cpu": spec_profile(device)}),
        nominal_quality(model.layers, None),
        ALL_FORMATS,
        1e9,
    )
    plan = Plan(stages, micro_batching or MicroBatching(2, 2, 2))
    return SavedPlan(plan, task, QualityTarget(None, 1e9), Certificate({}), seed=0)


def descendants() -> set[int]:
    """Return the processes that descend from this one and have not ended.

    Python's and joblib's trackers of resources are none of them: they live as long as this process.
    """
    found = psutil.Process().children(recursive=True)
    return {one.pid for one in found if one.is_running() and not _is_kept(one)}


def _is_kept(process: psutil.Process) -> bool:
    """Return whether a process has ended, or ends with this one by design."""
    try:
        is_ended = process.status() == psutil.STATUS_ZOMBIE
        return is_ended or any("resource_tracker" in word for word in process.cmdline())
    except psutil.NoSuchProcess:
        return True


class RuntimeContract:
    """The laws of a runtime; each is a test."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return the folder of a tiny model."""
        return write_tiny_model(tmp_path_factory.mktemp("model"))

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Runtime:
        """Return the runtime under test."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def job(cls, folder: Path) -> Job:
        """Return two uneven stages of several formats, and requests of several lengths."""
        saved = saved_plan(folder, SHARDS, prompt_tokens=16)
        return Job(saved, REQUESTS, folder)

    @pytest.fixture(scope="class")
    @classmethod
    def before(cls) -> set[int]:
        """Return the processes that are there before the runtime runs anything."""
        return descendants()

    @pytest.fixture(scope="class")
    @classmethod
    def run(
        cls,
        before: set[int],  # noqa: ARG003 - looked at first
        runtime: Runtime,
        job: Job,
    ) -> tuple[Execution, list[Completion]]:
        """Return what one run gave, which several tests look at."""
        return executed(runtime, job)

    def test_every_request_is_finished_once(self, run: tuple[Execution, list[Completion]]) -> None:
        assert sorted(one.request for one in run[1]) == list(range(len(REQUESTS)))

    def test_tokens_are_counted_right(self, run: tuple[Execution, list[Completion]]) -> None:
        execution, served = run
        for one in served:
            assert len(one.tokens) == REQUESTS[one.request].output_tokens
            assert one.ended_by == "length"
            assert all(0 <= token < VOCABULARY for token in one.tokens)
        wanted = sum(request.output_tokens for request in REQUESTS)
        assert execution.result.output_tokens == wanted
        assert [one.output_tokens for one in execution.requests] == [
            request.output_tokens for request in REQUESTS
        ]

    def test_the_result_is_that_of_a_simulation(
        self, run: tuple[Execution, list[Completion]]
    ) -> None:
        execution = run[0]
        result = execution.result
        assert isinstance(result, SimulationResult)
        assert result.requests == result.finished == len(REQUESTS)
        assert len(result.stage_busy_s) == len(execution.stage_peak_bytes) == 2
        assert all(0 < share <= 1 for share in result.stage_busy_fraction)
        assert 0 < result.ttft_s.p50 <= result.latency_s.p99 <= result.makespan_s

    def test_instants_are_in_order(self, run: tuple[Execution, list[Completion]]) -> None:
        execution = run[0]
        for one in execution.requests:
            assert one.arrival_s <= one.first_s <= one.last_s <= execution.result.makespan_s
        for step in execution.steps:
            assert step.began_s <= step.ended_s

    def test_no_stage_serves_two_steps_at_once(
        self, run: tuple[Execution, list[Completion]]
    ) -> None:
        for stage in range(2):
            steps = [step for step in run[0].steps if step.stage == stage]
            assert [step.step for step in steps] == list(range(len(steps)))
            for before, after in pairwise(steps):
                assert before.ended_s <= after.began_s

    def test_prompts_are_cut_as_the_plan_says(
        self, runtime: Runtime, job: Job, folder: Path
    ) -> None:
        batching = MicroBatching(2, 2, 2, chunk_tokens=4)
        saved = saved_plan(folder, SHARDS, micro_batching=batching, prompt_tokens=10)
        requests = tuple(
            TokenRequest(f"request-{number}", tuple(range(3 + number, 13 + number)), tokens)
            for number, tokens in enumerate((3, 1, 2, 3))
        )
        execution, served = executed(runtime, replace(job, saved=saved, requests=requests))
        assert sorted(len(one.tokens) for one in served) == [1, 2, 3, 3]
        for stage in range(2):
            own = sorted((s for s in execution.steps if s.stage == stage), key=lambda s: s.step)
            chunks = [step.prompt_tokens for step in own if step.prompt_tokens]
            assert chunks == [2 * 4, 2 * 3, 2 * 3] * 2
            assert all(not step.decodes for step in own if step.prompt_tokens)

    def test_continuous_batching_finishes_every_request(self, runtime: Runtime, job: Job) -> None:
        late = replace(REQUESTS[4], arrival_s=0.05)
        online = replace(
            job, requests=(*REQUESTS[:4], late), policy="continuous", settings=SETTINGS
        )
        execution, served = executed(runtime, online)
        assert sorted(one.request for one in served) == list(range(len(REQUESTS)))
        assert execution.requests[4].first_s >= 0.05

    def test_a_closed_loop_lets_a_request_in_as_one_is_finished(
        self, runtime: Runtime, job: Job
    ) -> None:
        closed = replace(job, policy="continuous", settings=SETTINGS, concurrency=2)
        execution, served = executed(runtime, closed)
        assert sorted(one.request for one in served) == list(range(len(REQUESTS)))
        entered_s = [one.arrival_s for one in execution.requests]
        assert entered_s == sorted(entered_s)
        assert entered_s[:2] == [0.0, 0.0]
        ended_s = sorted(one.last_s for one in execution.requests)
        assert all(after >= ended for after, ended in zip(entered_s[2:], ended_s, strict=False))
        with pytest.raises(LlmpqError, match="expected at least 1 in flight, with continuous"):
            runtime.check(replace(job, concurrency=2))

    def test_a_stop_token_ends_an_output(
        self, runtime: Runtime, job: Job, run: tuple[Execution, list[Completion]]
    ) -> None:
        tokens = next(one.tokens for one in run[1] if one.request == 0)
        stop = tokens[2]
        place = tokens.index(stop)
        stopped = replace(job, requests=(replace(REQUESTS[0], stop_tokens=(stop,)), *REQUESTS[1:]))
        served = {one.request: one for one in executed(runtime, stopped)[1]}
        assert served[0].tokens == tokens[: place + 1]
        assert served[0].ended_by == "stop"

    def test_seeds_are_respected(self, runtime: Runtime, job: Job) -> None:
        same = [sampled_tokens(runtime, job, seed) for seed in (7, 7)]
        assert same[0] == same[1]
        assert sampled_tokens(runtime, job, 8) != same[0]

    def test_a_plan_that_does_not_cover_the_model_is_refused(
        self, runtime: Runtime, job: Job
    ) -> None:
        short = replace(job.saved.plan, stages=job.saved.plan.stages[:1])
        with pytest.raises(LlmpqError, match="expected 4 layers in all, got 1"):
            runtime.check(replace(job, saved=replace(job.saved, plan=short)))

    def test_a_request_longer_than_the_cache_is_refused(self, runtime: Runtime, job: Job) -> None:
        long = TokenRequest("long", (5,) * 20, 10)
        with pytest.raises(LlmpqError, match="request long: has 20 prompt and 10 output tokens"):
            runtime.check(replace(job, requests=(long,)))

    def test_a_plan_larger_than_its_devices_is_refused(
        self, runtime: Runtime, job: Job, folder: Path
    ) -> None:
        small = saved_plan(folder, [("int8",), ("bf16",) * 3], memory_bytes=2**20)
        with pytest.raises(LlmpqError, match="does not fit: stage 0 on cpu-0 needs"):
            runtime.check(replace(job, saved=small, requests=REQUESTS[:2]))

    def test_no_process_is_left(
        self, before: set[int], run: tuple[Execution, list[Completion]]
    ) -> None:
        assert run[1]
        assert descendants() <= before


def executed(runtime: Runtime, job: Job) -> tuple[Execution, list[Completion]]:
    """Return what a runtime measures and who was served, in order."""
    served: list[Completion] = []
    execution = runtime.run(job, served.append)
    assert execution is not None
    return execution, served


def sampled_tokens(runtime: Runtime, job: Job, seed: int) -> Sequence[tuple[int, ...]]:
    """Return the tokens of two sampled requests."""
    sampling = replace(SAMPLED, seed=seed)
    requests = tuple(replace(one, sampling=sampling) for one in (REQUESTS[0], REQUESTS[3]))
    served = executed(runtime, replace(job, requests=requests, options=RuntimeOptions()))[1]
    return [one.tokens for one in sorted(served, key=lambda one: one.request)]
