"""Fits of latency profiles to measured rows.

`fit` is the door: it sorts rows (`rows`) and takes one of three ways, by what was timed.

- Kernels of public tables: `kernels` with trees (`boosting`), judged by `evaluation`.
- Whole layers alone: `layers`.
- Medians of repeats on the machine that serves, as ``llmpq profile`` makes them: `machine`.
"""
