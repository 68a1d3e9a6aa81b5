"""CUDA graphs: replayed decode steps give what computing them anew gives."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from llmpq_sim.core.plan import MicroBatching
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.cuda_graphs import MOST_RECORDINGS, CudaGraphs, Work
from runtimes.torch_pipeline.engine.kv_cache import StepLayout
from runtimes.torch_pipeline.engine.static_schedule import StaticSchedule
from runtimes.torch_pipeline.engine.step import Segment, Step
from tests.runtimes.models import DENSE, generated, save_model
from tests.runtimes.single_process import continuous, load_stages, run, token_lists
from tests.runtimes.test_token_laws import LENGTHS, TOKENS, prompts_of, requests_of

CPU = torch.device("cpu")


class CountingRecorder:
    """Repeats work by doing it again, on the same tensors, into the same place."""

    def __init__(self) -> None:
        self.recorded = 0
        self.replayed = 0

    def __call__(self, work: Work) -> Work:
        self.recorded += 1
        place: Any = work()

        def replay() -> Any:
            self.replayed += 1
            return place.copy_(work())

        return replay


@pytest.mark.parametrize("name", DENSE)
def test_tokens_are_those_of_generate(name: str, tmp_path: Path) -> None:
    folder = save_model(name, tmp_path)
    expected = generated(folder, prompts_of(LENGTHS), TOKENS)
    requests = requests_of(prompts_of(LENGTHS))
    recorder = CountingRecorder()
    shards = [("bf16",), ("bf16",) * 3]
    stages = load_stages(folder, shards, CacheShape(5, 24), recorder=recorder)
    for schedule in (
        StaticSchedule(requests, 5, MicroBatching(2, 3, 2)),
        continuous(requests, 24, 5, chunked=False),
    ):
        served, _ = run(stages, schedule, requests)
        assert token_lists(served) == expected
    assert recorder.replayed > recorder.recorded > 0


def computed(calls: list[StepLayout]) -> Callable[[StepLayout, torch.Tensor], torch.Tensor]:
    """Return work that notes its layouts and depends on contexts and on what enters."""

    def compute(layout: StepLayout, entering: torch.Tensor) -> torch.Tensor:
        calls.append(layout)
        return entering * 1000 + layout.decode_starts

    return compute


def decodes(starts: tuple[int, ...], first_row: int = 0) -> Step:
    return Step(0, tuple(Segment(i, first_row + i, s, 1, True) for i, s in enumerate(starts)))


def recordings(recorder: CountingRecorder) -> CudaGraphs:
    return CudaGraphs(recorder, CPU, 1000)


def test_a_step_is_recorded_when_its_like_comes_again() -> None:
    recorder = CountingRecorder()
    own = recordings(recorder)
    for starts, recorded in (((3, 9), 0), ((4, 10), 1), ((5, 11), 1), ((255, 3), 1)):
        out = own.run(decodes(starts), torch.tensor([1, 2]), computed([]))
        assert out.tolist() == [1000 + starts[0], 2000 + starts[1]]
        assert recorder.recorded == recorded


@pytest.mark.parametrize(
    "other",
    [
        pytest.param(decodes((256, 3)), id="a longer span"),
        pytest.param(decodes((3, 9), first_row=1), id="other rows"),
        pytest.param(decodes((3, 9, 4)), id="more rows"),
    ],
)
def test_another_kind_of_step_has_a_recording_of_its_own(other: Step) -> None:
    recorder = CountingRecorder()
    own = recordings(recorder)
    for step in (decodes((3, 9)), other) * 2:
        own.run(step, torch.arange(step.tokens), computed([]))
    assert recorder.recorded == 2


@pytest.mark.parametrize(
    "step",
    [
        pytest.param(Step(0, chunks=(Segment(0, 0, 0, 2, True),)), id="a prompt"),
        pytest.param(
            Step(0, (Segment(0, 0, 5, 1, True),), (Segment(1, 1, 0, 1, True),)), id="mixed"
        ),
        pytest.param(
            Step(0, (Segment(0, 0, 5, 1, True), Segment(1, 2, 5, 1, True))), id="rows apart"
        ),
        pytest.param(Step(0, (Segment(0, 0, 5, 1, False),)), id="nothing sampled"),
    ],
)
def test_other_steps_are_never_recorded(step: Step) -> None:
    recorder = CountingRecorder()
    own = recordings(recorder)
    for _ in range(3):
        own.run(step, torch.arange(step.tokens), lambda _, entering: entering)
    assert recorder.recorded == 0


def test_the_recording_not_needed_for_longest_makes_room() -> None:
    recorder = CountingRecorder()
    own = recordings(recorder)

    def twice(first_row: int) -> None:
        for _ in range(2):
            own.run(decodes((3,), first_row), torch.tensor([1]), computed([]))

    for row in range(MOST_RECORDINGS + 1):
        twice(row)
    assert recorder.recorded == MOST_RECORDINGS + 1
    twice(MOST_RECORDINGS)
    assert recorder.recorded == MOST_RECORDINGS + 1
    twice(0)
    assert recorder.recorded == MOST_RECORDINGS + 2


def test_a_span_never_exceeds_the_cache() -> None:
    layouts: list[StepLayout] = []
    own = CudaGraphs(CountingRecorder(), CPU, 300)
    for _ in range(2):
        own.run(decodes((290,)), torch.tensor([1]), computed(layouts))
    assert layouts[-1].span == 300
    assert layouts[-1].decode_mask(300) is not None
