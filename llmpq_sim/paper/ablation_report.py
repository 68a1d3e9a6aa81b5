"""Report on ablations: Markdown, CSV, and plain data for programs."""

from collections.abc import Sequence
from itertools import groupby
from math import log10
from typing import Any

import llmpq_sim
from llmpq_sim.paper.ablations import ABLATIONS, GROUP_LAYERS
from llmpq_sim.paper.evolution import EVOLUTION, ON_TRACE
from llmpq_sim.paper.findings import front, geometric_mean, reached_by_weights
from llmpq_sim.paper.report import NONE, csv_text, table
from llmpq_sim.paper.theta import FRONT, TARGET, WEIGHT
from llmpq_sim.report.formatting import counted, loss_text, percent_text, rate_text, span_text

SCHEMA = "llmpq/ablations"
VERSION = 3

FIELDS = (
    "cluster",
    "workload",
    "gamma",
    "kernels",
    "ablation",
    "theta_ms",
    "tokens_per_s",
    "quality_loss",
    "goodput_per_s",
)
"""Columns of the CSV: the fields of a result that are single values."""

Content = dict[str, Any]


def ablations_content(results: list[Content]) -> Content:
    """Return ablations as JSON content: tokens/s, nominal nats of loss, and plans."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        "results": results,
    }


def ablations_csv(results: list[Content]) -> str:
    """Return a line for each result; an absent value is empty."""
    return csv_text(results, FIELDS)


def ablations_markdown(results: list[Content]) -> str:
    """Return the report: each decision, groups, the genetic search, and theta's plans."""
    own = [one for one in results if isinstance(one["cluster"], int)]  # not of a mix
    parts = [
        "## What is left without a decision, tokens/s (share of the whole planner's)",
        _shares_table(own, ABLATIONS),
        "## What layers in groups cost the integer program, tokens/s (share of the program's)",
        _shares_table(own, tuple(GROUP_LAYERS)),
        "## What the genetic search brings, tokens/s (share of the whole planner's)",
        _shares_table([one for one in results if one["ablation"] not in ON_TRACE], EVOLUTION),
        *_trace_parts([one for one in results if one["ablation"] in ON_TRACE]),
        *theta_parts(own),
    ]
    return "\n\n".join(parts) + "\n"


def _trace_parts(results: list[Content]) -> list[str]:
    """Return what the genetic search brings on a trace, where that was tried."""
    if not results:
        return []
    rates = [rate_text(one["goodput_per_s"] or 0.0) for one in results]
    cluster = str(results[0]["cluster"])
    return [
        "## What the genetic search brings on a trace, goodput in requests/s",
        table(("cluster", "llmpq", "no genetic search", "best baseline"), [[cluster, *rates]]),
    ]


def theta_parts(results: list[Content]) -> list[str]:
    """Return the parts of the report that are on theta: its plans, and what any weight reaches."""
    cases = _by_case(results).items()
    return [
        "## A weight on loss set by hand, and a target of the same loss in its place, tokens/s",
        table(
            ("cluster", "theta, ms a nat", "by theta", "loss", "to a target", "loss", "gain"),
            [row for case, own in cases for row in _theta_rows(case, own)],
        ),
        _theta_sentence(results),
        "## What any weight can reach of the corrected program's front",
        table(
            ("cluster", "plans on the front", "reached by a weight", "most a target gains"),
            [_front_row(case, own) for case, own in cases],
        ),
    ]


def shares(results: list[Content], names: Sequence[str]) -> list[float | None]:
    """Return the tokens/s of a case's ablations after the first name, over those of the first."""
    rates = {one["ablation"]: one["tokens_per_s"] for one in results}
    whole = rates[names[0]]
    return [rates[name] / whole if rates[name] and whole else None for name in names[1:]]


def _by_case(results: list[Content]) -> dict[str, list[Content]]:
    """Return the results of each case by what tables call it."""
    cases: dict[str, list[Content]] = {}
    for one in results:
        name = f"{one['cluster']} ({one['kernels']}, {one['workload']})"
        cases.setdefault(name, []).append(one)
    return cases


def _shares_table(results: list[Content], names: tuple[str, ...]) -> str:
    rows = []
    for case, own in _by_case(results).items():
        rates = {one["ablation"]: one["tokens_per_s"] for one in own}
        texts = [NONE if rates[name] is None else rate_text(rates[name]) for name in names]
        for number, share in enumerate(shares(own, names), start=1):
            texts[number] += "" if share is None else f" ({percent_text(share)})"
        rows.append([case, *texts])
    return table(("cluster", *names), rows)


def _theta_rows(case: str, results: list[Content]) -> list[list[str]]:
    """Return a row for each run of thetas whose plans do the same."""
    return [
        [
            case,
            thetas,
            *(text for one in (by_theta, to_target) for text in _rate_and_loss(one)),
            NONE if (gain := _gain(by_theta, to_target)) is None else f"{100 * (gain - 1):+.0f} %",
        ]
        for thetas, by_theta, to_target in _runs(results)
    ]


def _runs(results: list[Content]) -> list[tuple[str, Content, Content]]:
    """Return runs of thetas whose plans do the same, with one of them and its target's."""
    by_theta = [one for one in results if one["ablation"] == WEIGHT]
    to_target = [one for one in results if one["ablation"] == TARGET]
    pairs = zip(by_theta, to_target, strict=True)
    runs = []
    for _, run in groupby(pairs, key=lambda pair: _rate_and_loss(pair[0])):
        own = list(run)
        ends = (own[0][0]["theta_ms"], own[-1][0]["theta_ms"])
        thetas = " to ".join(dict.fromkeys(f"10^{log10(theta_ms):g}" for theta_ms in ends))
        runs.append((thetas, *own[0]))
    return runs


def _rate_and_loss(one: Content) -> tuple[str, str]:
    rate, loss = one["tokens_per_s"], one["quality_loss"]
    return NONE if rate is None else rate_text(rate), NONE if loss is None else loss_text(loss)


def _gain(by_theta: Content, to_target: Content) -> float | None:
    if by_theta["tokens_per_s"] is None or to_target["tokens_per_s"] is None:
        return None
    return float(to_target["tokens_per_s"] / by_theta["tokens_per_s"])


def _gains(results: list[Content]) -> list[float]:
    """Return what a target gains over each plan of a case's thetas that fits."""
    gains = [_gain(by_theta, to_target) for _, by_theta, to_target in _runs(results)]
    return [gain for gain in gains if gain is not None]


def _theta_sentence(results: list[Content]) -> str:
    """Return how many plans all thetas give, and what targets gain."""
    cases = _by_case(results).values()
    thetas = len({one["theta_ms"] for one in results if one["ablation"] == WEIGHT})
    plans = span_text(_different_plans(own) for own in cases)
    text = f"{thetas} thetas give {plans} different plans in a case."
    gains = [geometric_mean(of_case) for own in cases if (of_case := _gains(own))]
    if gains:
        cases_text = counted(len(gains), "case")
        text += (
            " At no more loss than each has, the search to a target is "
            f"{geometric_mean(gains):.2f}x as fast (geometric mean of {cases_text}, "
            f"{min(gains):.2f}x to {max(gains):.2f}x)."
        )
    return text


def _different_plans(results: list[Content]) -> int:
    """Return how many plans of different tokens/s or loss a case has over all thetas."""
    return len({_rate_and_loss(one) for one in results if one["ablation"] == WEIGHT})


def _front_row(case: str, results: list[Content]) -> list[str]:
    """Return how much of a case's front weights reach, and the most that the rest is faster."""
    plans = front([one for one in results if one["ablation"] == FRONT])
    reached = reached_by_weights(plans)
    gains = [one["tokens_per_s"] / _best_within(reached, one["quality_loss"]) for one in plans]
    most = f"{100 * (max(gains) - 1):+.0f} %" if gains else NONE
    return [case, str(len(plans)), str(len(reached)), most]


def _best_within(plans: list[Content], loss: float) -> float:
    """Return the tokens/s of the first plan, of the fastest first, that loses no more."""
    return float(next(one["tokens_per_s"] for one in plans if one["quality_loss"] <= loss))
