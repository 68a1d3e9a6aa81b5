"""Fuzzing: whatever a file holds, reading it gives data or one LlmpqError, and soon.

Inputs are made by a generator from a seed (``mutations``), of small whole files of every kind that
is read (``inputs``), beside inputs of every kind that once was a fault (``known``). ``make fuzz``
runs for as long as FUZZ_S says and writes what failed; the tests run for less than a minute.
"""
