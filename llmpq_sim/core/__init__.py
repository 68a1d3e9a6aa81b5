"""Nouns of planning: model, cluster, formats, scenario, plan, trace, result, execution, memory."""
