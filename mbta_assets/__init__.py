"""Dagster code location that learns to predict transit arrivals from vehicle positions and schedules."""
