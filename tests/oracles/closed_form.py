"""Closed form of the time that equal micro-batches take.

The exact cases that a simulation must reproduce, cheap enough to screen plans with. A link that
carries one message at a time is a server like a stage, so both functions take the times of all
servers, stages and links alike.
"""

from collections.abc import Sequence

from llmpq_sim.core.units import MS


def pipeline_makespan_s(server_s: Sequence[float], micro_batches: int) -> float:
    """Return the time in which equal micro-batches pass a line of servers, in s.

    ``sum P + (M - 1) max P``: the first passes every server, and each of the others leaves one
    turn of the slowest server later.
    Source: LLM-PQ, arXiv:2403.01136, objective, prefill term; makespan of a permutation flow shop
    of equal jobs.

    Args:
        server_s: time of one micro-batch at each stage and at each link between stages, in s; at
            least one.
        micro_batches: how many pass; at least one.
    """
    return sum(server_s) + (micro_batches - 1) * max(server_s)


def decode_round_s(server_s: Sequence[float], groups: int) -> float:
    """Return the time of one decode round once the ring is in its steady state, in s.

    ``max(sum D, M max D)``: in a round each group goes round the ring, and the slowest server
    serves all groups.
    Source: cycle time of a timed event graph, the largest ratio of time to tokens over its
    circuits (Baccelli, Cohen, Olsder, Quadrat, Synchronization and Linearity, 1992): the ring with
    one token per group, and each server with one token. It replaces LLM-PQ's decode term,
    ``(M - 1) max D`` a token (arXiv:2403.01136, objective), which is one turn short in the
    steady state and nothing for a single group.

    Args:
        server_s: time of one group at each stage and each link of the ring, the return to the
            first stage included, in s; at least one.
        groups: how many are in flight; at least one.
    """
    return max(sum(server_s), groups * max(server_s))


def reference_objective_ms(
    prefill_s: Sequence[float],
    decode_s: Sequence[float],
    micro_batches: tuple[int, int],
    output_tokens: int,
    weighted_loss_ms: float,
) -> float:
    """Return the reference's objective in ms.

    Args:
        prefill_s: of each stage for a prefill micro-batch.
        decode_s: of each stage for a token of a decode micro-batch.
        micro_batches: how many pass in prefill and in each decode round.
        output_tokens: to generate for each request.
        weighted_loss_ms: theta times the sum of omega.
    """
    prefills, groups = micro_batches
    total_s = sum(prefill_s) + (prefills - 1) * max(prefill_s)
    total_s += sum(decode_s) + (groups - 1) * (output_tokens - 1) * max(decode_s)
    return total_s / MS + weighted_loss_ms
