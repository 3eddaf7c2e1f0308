"""Pure functions from the upstream tables to features: schema, point-in-time join, stop visits and feature formulas.

Modules here work on frames and arrays. Storage, models and Dagster do not belong here.
"""
