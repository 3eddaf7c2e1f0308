"""Plots of tables, trainings and scores: pure functions that draw plain data on matplotlib's axes.

They know neither Dagster nor storage. `style` makes small pictures of them that every plot of the project looks like.
"""
