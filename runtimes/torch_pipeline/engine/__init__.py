"""Stages at work: schedules, steps, attention, KV cache, transport."""
