"""Deployments: requests in, a job to a runtime, answers out."""
