"""Experiments on a model trained for the purpose: does measured quality keep its promises?"""
