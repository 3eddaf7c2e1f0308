"""Dagster resources: the configuration of each, and the plain object of `sources`, `storage` or `gcp` made from it.

Assets, checks and sensors receive the plain object, annotated with `dg.ResourceParam`. A test may pass one directly.
"""
