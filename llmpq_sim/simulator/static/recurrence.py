"""Recurrence that computes what the SimPy model of the static policy simulates, bit for bit.

Stages and links serve in order of arrival and steps never overtake each other, so who comes next
does not depend on the times: the steps are taken in the order in which they enter. With ``s`` the
service at a stage and ``x`` the transfer behind it:

    ended = max(arrived, stage free) + s;  arrived at the next = max(ended, link free) + x
"""

from llmpq_sim.simulator.static.step_graph import StepGraph, StepTimes


def compute_steps(graph: StepGraph, start_s: float = 0.0) -> StepTimes:
    """Return when each step of a graph that begins at ``start_s`` is sampled."""
    stages = range(len(graph.service_s))
    service_s = list(zip(*graph.service_s, strict=True))
    transfer_s = list(zip(*graph.transfer_s, strict=True))
    stage_free_s, link_free_s = [start_s for _ in stages], [start_s for _ in stages]
    entry_s, sampled_s = [start_s] * graph.steps, [start_s] * graph.steps
    began_s = entry_s.copy()
    order = list(range(graph.starts))
    for step in order:
        at_s = entry_s[step]
        began_s[step] = max(at_s, stage_free_s[0])
        for number, serve_s, send_s in zip(stages, service_s[step], transfer_s[step], strict=True):
            free_s = stage_free_s[number]
            ended_s = stage_free_s[number] = (at_s if at_s > free_s else free_s) + serve_s
            free_s = link_free_s[number]
            at_s = link_free_s[number] = (ended_s if ended_s > free_s else free_s) + send_s
        sampled_s[step] = ended_s
        for follower in graph.successors[step]:
            entry_s[follower] = at_s
            order.append(follower)
    return StepTimes(began_s, sampled_s, max(sampled_s))
