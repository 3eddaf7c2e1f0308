"""Machine learning on NumPy arrays and bytes: `inference`, `training` and `evaluation`.

Nothing here imports Dagster or reads tables. `inference` imports neither of the other two.
"""
