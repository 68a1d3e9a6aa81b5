"""Workloads: generated, cut and scaled."""
