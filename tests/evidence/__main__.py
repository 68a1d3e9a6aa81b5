"""Print the evidence of docs/log.md as tables: ``python -m tests.evidence``."""

import argparse
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise, product
from pathlib import Path
from statistics import geometric_mean, mean, median

import torch

from tests.evidence.experiment import (
    SMALL_LOSS_NATS,
    Evidence,
    Scale,
    all_losses,
    experiment,
    median_loss,
    rank_correlation,
    same_memory_correlation,
)
from tests.evidence.whole_model import QUANTIZED
from tests.trained_model import LARGE, SMALL, trained_model

LOSS_RANGES = (0.0, 0.001, 0.01, SMALL_LOSS_NATS, 0.3, 1.0, float("inf"))


def main() -> None:
    """Train a model for each seed, put it to the questions, print the answers."""
    parser = argparse.ArgumentParser(description="Evidence for measured quality.")
    parser.add_argument("--small", action="store_true", help="the model of the tests")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="folder in which trained models are kept")
    options = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        training = SMALL if options.small else LARGE
        found = []
        for seed in range(options.seeds):
            model = folder / f"{'small' if options.small else 'large'}-{seed}"
            if not (model / "model.safetensors").exists():
                trained_model(model, training, seed)
            found.append(experiment(model, Scale(), seed))
    print("\n".join(report(found)))  # noqa: T201 - the tables


def report(found: Sequence[Evidence]) -> Iterator[str]:
    """Yield the lines of all tables, in Markdown."""
    tables = (losses_report, sums_report, indicators_report, plans_report, cost_report)
    for answer in (*tables, quantizers_report):
        yield from answer(found)
        yield ""


def losses_report(found: Sequence[Evidence]) -> Iterator[str]:
    """Yield what each layer loses alone in each format."""
    yield "| seed | cross-entropy | format | loss of each layer alone, nats x 1000 | spread |"
    yield "|---|---|---|---|---|"
    for seed, evidence in enumerate(found):
        for name in QUANTIZED:
            losses = evidence.losses[name]
            listed = " ".join(f"{1e3 * loss:.3g}" for loss in losses)
            spread = max(losses) / min(losses)
            yield f"| {seed} | {evidence.reference_nats:.2f} | {name} | {listed} | x{spread:.1f} |"


def sums_report(found: Sequence[Evidence]) -> Iterator[str]:
    """Yield how well sums over layers tell the loss of mixed assignments."""
    yield "| measured loss, nats | assignments | median error | 90 % | bias | other windows |"
    yield "|---|---|---|---|---|---|"
    for low, high in pairwise(LOSS_RANGES):
        sums = [each for evidence in found for each in evidence.sums_between(low, high)]
        if not sums:
            continue
        errors = sorted(each.error for each in sums)
        bias = median(each.predicted / each.measured - 1 for each in sums)
        elsewhere = median(abs(each.predicted / each.elsewhere - 1) for each in sums)
        yield (
            f"| {low:g} to {high:g} | {len(sums)} | {median(errors):.1%} "
            f"| {errors[int(0.9 * len(errors))]:.1%} | {bias:+.1%} | {elsewhere:.1%} |"
        )
    yield ""
    yield "| seed | weight errors | Spearman | median error below 0.1 nats | above | largest loss |"
    yield "|---|---|---|---|---|---|"
    for (seed, evidence), amplification in product(enumerate(found), Scale().amplifications):
        sums = [each for each in evidence.sums if each.amplification == amplification]
        ranks = rank_correlation([s.predicted for s in sums], [s.measured for s in sums])
        small = [each.error for each in sums if each.measured < SMALL_LOSS_NATS]
        large = [each.error for each in sums if each.measured >= SMALL_LOSS_NATS]
        yield (
            f"| {seed} | x{amplification} | {ranks:.4f} | {_median(small)} | {_median(large)} "
            f"| {max(each.measured for each in sums):.3f} |"
        )


def indicators_report(found: Sequence[Evidence]) -> Iterator[str]:
    """Yield how the ranks of each table agree with those of measured losses."""
    yield (
        "| table | seed | all layers and formats | "
        + " | ".join(f"layers, {name}" for name in QUANTIZED)
        + " | random plans of one memory |"
    )
    yield "|---|---|---|" + "---|" * len(QUANTIZED) + "---|"
    for name in found[0].tables():
        for seed, evidence in enumerate(found):
            table, losses = evidence.tables()[name], evidence.losses
            overall = rank_correlation(all_losses(table), all_losses(losses))
            within = [rank_correlation(table[each], losses[each]) for each in QUANTIZED]
            plans = same_memory_correlation(evidence, table)
            listed = " | ".join(f"{each:.2f}" for each in within)
            yield f"| {name} | {seed} | {overall:.3f} | {listed} | {plans:.2f} |"


def plans_report(found: Sequence[Evidence]) -> Iterator[str]:
    """Yield what plans of equal memory lose, means over seeds, random ones by their median."""
    methods = list(next(iter(found[0].plans.values())))
    yield "| bits per weight | " + " | ".join(methods) + " |"
    yield "|---|" + "---|" * len(methods)
    for bits in found[0].plans:
        rows = [mean(median_loss(each.plans[bits][name]) for each in found) for name in methods]
        yield f"| {bits:g} | " + " | ".join(f"{loss:.2g}" for loss in rows) + " |"
    for seed, evidence in enumerate(found):
        ratios = [
            geometric_mean(
                median_loss(plans[name]) / plans["kl"][0].loss for plans in evidence.plans.values()
            )
            for name in methods
        ]
        yield f"| over kl, seed {seed} | " + " | ".join(f"x{each:.2f}" for each in ratios) + " |"


def _median(errors: Sequence[float]) -> str:
    return f"{median(errors):.1%} of {len(errors)}" if errors else "none"


def quantizers_report(found: Sequence[Evidence]) -> Iterator[str]:
    """Yield what uniform formats lose under each quantizer, means over seeds, and its time."""
    yield "| quantizer | " + " | ".join(QUANTIZED) + " | processor seconds |"
    yield "|---|---|" + "---|" * len(QUANTIZED)
    for name in found[0].uniform:
        losses = [mean(each.uniform[name][one] for each in found) for one in QUANTIZED]
        seconds = mean(each.quantizing_s[name] for each in found)
        listed = " | ".join(f"{loss:.2g}" for loss in losses)
        yield f"| {name} | {listed} | {seconds:.2f} |"


def cost_report(found: Sequence[Evidence]) -> Iterator[str]:
    """Yield what each table took, without the quantizing that all need."""
    yield "| method | processor seconds |"
    yield "|---|---|"
    for name in found[0].seconds:
        yield f"| {name} | {mean(each.seconds[name] for each in found):.2f} |"


if __name__ == "__main__":
    main()
