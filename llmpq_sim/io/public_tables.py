"""Public tables of kernel timings, told by their columns, as the rows that fits read.

The columns are those of NVIDIA's aiconfigurator with times in microseconds: one table for each of
experts, latent attention, attention with windows, linear attention, and matrix products.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

Columns = dict[str, list[Any]]
Cells = Mapping[str, list[Any]]

ALGORITHMS = {"gdn": "gated-delta", "kda": "kimi-delta", "mamba2": "mamba-2"}
PHASES = {"context": "prefill", "generation": "decode"}
SIXTEEN_BITS = {"bfloat16": "bf16", "float16": "fp16"}
BITS = {"bfloat16": 16.0, "float16": 16.0, "fp8": 8.0, "int8": 8.0}


@dataclass(frozen=True)
class PublicTable:
    """How a kind of table is told and read.

    Attributes:
        signature: columns that no other kind has.
        op: operator of its rows.
        same: columns that keep their cells, by their name among the rows of fits.
        derived: columns made of several cells.
    """

    signature: tuple[str, ...]
    op: str
    same: Mapping[str, str]
    derived: Mapping[str, Callable[[Cells, int], Any]]

    @property
    def columns(self) -> frozenset[str]:
        """The columns that are read."""
        return frozenset((*self.signature, *self.same.values(), *DERIVED_FROM))


DERIVED_FROM = (
    *("phase", "isl", "step", "kv_cache_dtype", "whole_module", "op"),
    *("num_v_heads", "nheads", "head_k_dim", "d_state", "head_v_dim", "head_dim"),
    *("num_k_heads", "n_groups", "kernel"),
)


def _context(cells: Cells, row: int) -> Any:
    """Return the tokens of a prompt, or of the cache that a decode step attends to."""
    if cells["phase"][row] == "prefill":
        return cells["isl"][row]
    return cells["step"][row]


def _latent_context(cells: Cells, row: int) -> Any:
    if cells["phase"][row] == "prefill":
        return cells["isl"][row]
    return _number(cells["isl"][row]) + _number(cells["step"][row])


def _cached(cells: Cells, row: int) -> Any:
    return cells["step"][row] if cells["phase"][row] == "prefill" else 0


def _quant(column: str) -> Callable[[Cells, int], str]:
    """Return the cell of a column, 16-bit types as rows of fits spell them."""

    def spelled(cells: Cells, row: int) -> str:
        name = str(cells[column][row] or "")
        return SIXTEEN_BITS.get(name, name)

    return spelled


def _either(first: str, second: str) -> Callable[[Cells, int], Any]:
    """Return the cell of the first column, or of the second where the first is zero."""
    return lambda cells, row: cells[first if _number(cells[first][row]) else second][row]


def _number(cell: Any) -> float:
    """Return a cell's number, 0 where it is empty, not-a-number where it is something else."""
    try:
        return float(cell) if cell not in ("", None) else 0.0
    except (TypeError, ValueError, OverflowError):
        return math.nan


def _is_true(cell: Any) -> bool:
    return cell is True or str(cell).strip().lower() in ("true", "1")


def _kv_bits(cells: Cells, row: int) -> Any:
    return BITS.get(str(cells["kv_cache_dtype"][row]), 0.0)


def _part(cells: Cells, row: int) -> str:
    """Return which of a recurrent mixer's kernels a row is of."""
    return "convolution" if "conv1d" in str(cells["kernel"][row]) else "scan"


def _latent_part(cells: Cells, row: int) -> str:
    """Return whether a row is of the attention kernel or of all products around it too."""
    return "module" if _is_true(cells["whole_module"][row]) else "attention"


TABLES = (
    PublicTable(
        signature=("moe_dtype", "topk", "num_experts"),
        op="experts",
        same={
            "m": "num_tokens",
            "n": "inter_size",
            "k": "hidden_size",
            "experts": "num_experts",
            "chosen": "topk",
            "tensor_ranks": "moe_tp_size",
            "expert_ranks": "moe_ep_size",
            "routing": "distribution",
        },
        derived={"quant": _quant("moe_dtype")},
    ),
    PublicTable(
        signature=("mla_dtype",),
        op="latent",
        same={"heads": "num_heads", "batch": "batch_size", "phase": "phase"},
        derived={
            "quant": _quant("mla_dtype"),
            "seq": _latent_context,
            "cached": _cached,
            "kv_bits": _kv_bits,
            "kernel": _latent_part,
        },
    ),
    PublicTable(
        signature=("attn_dtype", "window_size"),
        op="attention",
        same={
            "phase": "phase",
            "batch": "batch_size",
            "heads": "num_heads",
            "kv_heads": "num_key_value_heads",
            "head_dim": "head_dim",
            "window": "window_size",
        },
        derived={"quant": _quant("attn_dtype"), "seq": _context, "kv_bits": _kv_bits},
    ),
    PublicTable(
        signature=("d_conv", "num_v_heads", "nheads"),
        op="recurrent",
        same={"batch": "batch_size", "seq": "seq_len"},
        derived={
            "phase": lambda cells, row: PHASES.get(str(cells["phase"][row]), ""),
            "algorithm": lambda cells, row: ALGORITHMS.get(str(cells["op"][row]), ""),
            "heads": _either("num_v_heads", "nheads"),
            "head_dim": _either("head_k_dim", "d_state"),
            "value_dim": _either("head_v_dim", "head_dim"),
            "kv_heads": _either("num_k_heads", "n_groups"),
            "kernel": _part,
        },
    ),
    PublicTable(
        signature=("gemm_dtype",),
        op="gemm",
        same={"m": "m", "n": "n", "k": "k"},
        derived={"quant": _quant("gemm_dtype")},
    ),
)

KEPT = ("gpu", "backend", "version", "latency_us")
"""Columns that mean the same in every table."""

PUBLIC_COLUMNS = frozenset().union(*(table.columns for table in TABLES))


def tidy_columns(columns: Columns) -> Columns:
    """Return the columns of a public table as those of measured rows; others as they are."""
    table = next((each for each in TABLES if set(each.signature) <= set(columns)), None)
    if table is None:
        return columns
    rows = len(next(iter(columns.values())))
    absent = [None] * rows
    cells = {name: columns.get(name, absent) for name in table.columns}
    tidy = {name: columns[name] for name in KEPT if name in columns}
    tidy |= {name: cells[source] for name, source in table.same.items()}
    tidy |= {
        name: [derive(cells, row) for row in range(rows)] for name, derive in table.derived.items()
    }
    return {"op": [table.op] * rows, **tidy}
