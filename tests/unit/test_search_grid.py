from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.search.grid import (
    MOST_SIZES,
    chunk_sizes,
    micro_batch_sizes,
    micro_batching_grid,
    paper_micro_batchings,
)
from tests.builders import tiny_scenario

counts = st.integers(1, 200)
devices = st.integers(1, 12)


@given(counts, devices)
def test_every_micro_batching_of_the_grid_cuts_the_batch(requests: int, number: int) -> None:
    for batching in micro_batching_grid(requests, number):
        assert 1 <= batching.prefill <= batching.wave_rows(requests)
        assert 1 <= batching.decode <= requests
        assert sum(sum(wave) for wave in batching.waves(requests)) == requests


@given(counts, devices)
def test_the_grid_has_no_entry_twice_and_all_of_the_papers(requests: int, number: int) -> None:
    grid = micro_batching_grid(requests, number)
    assert len(set(grid)) == len(grid)
    assert set(paper_micro_batchings(requests, number)) <= set(grid)


@given(counts, devices, st.integers(1, 50_000))
def test_prompts_are_cut_alone_and_whole_ones_come_as_without(
    requests: int, number: int, prompt_tokens: int
) -> None:
    chunks = chunk_sizes(prompt_tokens)
    assert all(tokens < prompt_tokens for tokens in chunks)
    grid = micro_batching_grid(requests, number, chunks)
    whole = [batching for batching in grid if batching.chunk_tokens is None]
    assert whole == micro_batching_grid(requests, number)
    cut = [batching for batching in grid if batching.chunk_tokens is not None]
    assert {batching.prefill for batching in cut} <= {1}
    ways = {(batching.decode, batching.groups_in_flight) for batching in grid}
    papers = {
        (each.decode, each.groups_in_flight) for each in paper_micro_batchings(requests, number)
    }
    assert len(chunks) * len(ways - papers) <= len(cut) <= len(chunks) * len(ways)


@given(st.integers(1, 4096), devices)
def test_there_are_few_sizes_and_the_whole_batch_is_one(requests: int, number: int) -> None:
    sizes = micro_batch_sizes(requests, number)
    assert len(sizes) <= MOST_SIZES
    assert sizes[-1] == requests
    assert sizes == sorted(set(sizes))


def test_the_paper_cuts_a_batch_by_devices_and_prefills_by_divisors() -> None:
    assert paper_micro_batchings(30, 2) == [MicroBatching(size, 15, 2) for size in (1, 3, 5, 15)]


def test_groups_in_flight_are_all_or_a_half_a_quarter_and_so_on() -> None:
    grid = micro_batching_grid(tiny_scenario(output_tokens=(2,) * 32).workload.requests, 4)
    fours = [batching for batching in grid if batching.decode == batching.prefill == 4]
    assert [batching.groups_in_flight for batching in fours] == [8, 4, 2, 1]
