"""Batch-invariant stages give each token the same logits, to the last bit, in every batch."""

from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from runtimes.base import TokenRequest
from runtimes.torch_pipeline.engine.batch_invariance import RowwiseFunction
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.sequences import Schedule
from runtimes.torch_pipeline.engine.stage import Stage
from runtimes.torch_pipeline.engine.step import Step
from runtimes.torch_pipeline.weights.linear import FixedTiles
from tests.runtimes.linears_of_tests import NEVER, gaussian, made
from tests.runtimes.models import DENSE, generated, save_config, save_model
from tests.runtimes.processors import PROCESSORS, bfloat16_instructions
from tests.runtimes.single_process import continuous, load_stages, run, static, token_lists
from tests.runtimes.test_quantized_laws import wide
from tests.runtimes.test_token_laws import prompts_of, requests_of

processor = pytest.fixture(autouse=True, params=PROCESSORS)(bfloat16_instructions)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MIXED = (("int8", "int3"), ("bf16", "int4"))
REQUESTS = requests_of(prompts_of((5, 70, 3, 64, 1, 97)), 4)
ROWS = 8

Logits = dict[tuple[str, int], torch.Tensor]


@dataclass
class WatchedStage:
    """A last stage whose logits are kept by request and place in its output."""

    stage: Stage
    requests: list[TokenRequest]
    logits: Logits = field(default_factory=dict)

    def run(self, step: Step, entering: torch.Tensor) -> torch.Tensor:
        out = self.stage.run(step, entering)
        for part, row in zip(step.sampled, out, strict=True):
            request = self.requests[part.request]
            place = part.start + part.tokens - len(request.prompt)
            self.logits[request.name, place] = row.clone()
        return out


def logits_of(stages: list[Stage], schedule: Schedule, requests: list[TokenRequest]) -> Logits:
    """Return the logits of every token that is sampled."""
    watched = WatchedStage(stages[-1], requests)
    run([*stages[:-1], watched], schedule, requests)  # type: ignore[list-item]
    return watched.logits


def alone(stages: list[Stage], requests: list[TokenRequest]) -> Logits:
    """Return the logits of requests that are served one after another."""
    return logits_of(stages, static(requests, 1, 1, 1, 1), requests)


def differing(logits: Logits, expected: Logits) -> list[tuple[str, int]]:
    return [place for place in logits if not torch.equal(logits[place], expected[place])]


@cache
def folder_of(name: str, root: Path) -> Path:
    return save_config(wide(name), root / name)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("invariant")


def invariant_stages(folder: Path, dtype: str, *, is_invariant: bool = True) -> list[Stage]:
    return load_stages(
        folder, list(MIXED), CacheShape(ROWS, 110), dtype=DTYPES[dtype], is_invariant=is_invariant
    )


# ---- whole models


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *(("llama", dtype) for dtype in DTYPES),
        *((name, "bf16") for name in ("mistral-window", "gemma2", "qwen3")),
        *((name, dtype) for name in ("opt", "bloom") for dtype in ("bf16", "fp32")),
    ],
)
def test_logits_are_those_of_a_request_alone(name: str, dtype: str, root: Path) -> None:
    stages = invariant_stages(folder_of(name, root), dtype)
    expected = alone(stages, REQUESTS)
    for schedule in (
        static(REQUESTS, 6, 3, 4, 2),
        static(REQUESTS, 6, 3, 4, 2, chunk_tokens=37),
        continuous(REQUESTS, 9, 6),
        continuous(REQUESTS, 200, 8, chunked=False),
    ):
        assert differing(logits_of(stages, schedule, REQUESTS), expected) == []


schedules = st.one_of(
    st.tuples(st.just("static"), *(st.integers(1, ROWS) for _ in range(3)), st.integers(1, 3)),
    st.tuples(
        st.just("continuous"), st.integers(1, 130), st.integers(1, ROWS), st.just(1), st.just(1)
    ),
)


@given(
    st.lists(st.sampled_from(range(len(REQUESTS))), min_size=1, unique=True),
    schedules,
    st.integers(60, 140),
)
@settings(max_examples=8, deadline=None)
def test_no_batch_changes_a_bit(
    root: Path, chosen: list[int], drawn: tuple[str, int, int, int, int], context: int
) -> None:
    """Whoever is beside it, however prompts are cut, and however large the cache is."""
    folder = folder_of("llama", root)
    expected = expected_of("bf16", folder)
    requests = [REQUESTS[number] for number in chosen]
    rows = CacheShape(ROWS, max(context, *(one.context_tokens for one in requests)))
    stages = load_stages(folder, list(MIXED), rows, dtype=torch.bfloat16, is_invariant=True)
    policy, *sizes = drawn
    if policy == "static":
        batch, prefill, decode, in_flight = sizes
        schedule: Schedule = static(requests, batch, prefill, decode, in_flight)
    else:
        schedule = continuous(requests, max(sizes[:2]), sizes[1])
    assert differing(logits_of(stages, schedule, requests), expected) == []


def expected_of(dtype: str, folder: Path) -> Logits:
    return alone(invariant_stages(folder, dtype), REQUESTS)


def test_without_it_logits_depend_on_the_batch(root: Path) -> None:
    stages = invariant_stages(folder_of("llama", root), "bf16", is_invariant=False)
    together = logits_of(stages, static(REQUESTS, 6, 6, 6, 1), REQUESTS)
    assert differing(together, alone(stages, REQUESTS))


@pytest.mark.parametrize("name", DENSE)
def test_tokens_are_those_of_generate(name: str, tmp_path: Path) -> None:
    folder = save_model(name, tmp_path)
    prompts = prompts_of((5, 70, 3))
    stages = load_stages(folder, [("bf16",), ("bf16",) * 3], CacheShape(3, 80), is_invariant=True)
    requests = requests_of(prompts, 6)
    served, _ = run(stages, continuous(requests, 9, 3), requests)
    assert token_lists(served) == generated(folder, prompts, 6)


def test_positions_that_depend_on_the_batch_are_refused(tmp_path: Path) -> None:
    config = wide("llama")
    config.rope_parameters = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
    folder = save_config(config, tmp_path)
    with pytest.raises(InputError, match=r"--batch-invariant: .*\(dynamic\) depend on"):
        load_stages(folder, [("bf16",) * 4], CacheShape(1, 8), is_invariant=True)


# ---- its parts


@given(
    st.sampled_from(["int8", "int4", "int3", "bf16"]),
    st.sampled_from(sorted(DTYPES)),
    st.integers(1, 40),
    st.sampled_from([(64, 256), (199, 64), (48, 90)]),
    st.sampled_from([0, NEVER]),
)
@settings(max_examples=60, deadline=None)
def test_products_in_tiles_are_those_of_each_row_alone(
    name: str, dtype: str, rows: int, shape: tuple[int, int], dense_from: int
) -> None:
    operator = made(name, shape, dense_from, DTYPES[dtype], gaussian(shape[0], seed=3))
    inputs = gaussian(rows, shape[1], seed=rows).to(DTYPES[dtype])
    plain = operator(inputs)
    operator.tiles = FixedTiles(8)
    together = operator(inputs)
    each = [operator(inputs[row : row + 1]) for row in range(rows)]
    assert torch.equal(together, torch.cat(each))
    torch.testing.assert_close(together, plain, rtol=2**-6, atol=2**-6 * shape[1] ** 0.5)


@given(st.integers(1, 50), st.integers(1, 2000), st.sampled_from(sorted(DTYPES)))
@settings(max_examples=40, deadline=None)
def test_functions_by_row_are_those_of_each_row_alone(rows: int, width: int, dtype: str) -> None:
    function = RowwiseFunction(torch.nn.SiLU())
    inputs = gaussian(rows, width, seed=width).to(DTYPES[dtype])
    each = [function(inputs[row : row + 1]) for row in range(rows)]
    assert torch.equal(function(inputs), torch.cat(each))
    torch.testing.assert_close(function(inputs), torch.nn.functional.silu(inputs))


def test_experts_are_refused(tmp_path: Path) -> None:
    folder = save_model("mixtral", tmp_path)
    with pytest.raises(InputError, match="--batch-invariant: the model has experts"):
        load_stages(folder, [("bf16",) * 4], CacheShape(1, 8), is_invariant=True)
