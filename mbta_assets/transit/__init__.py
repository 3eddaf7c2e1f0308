"""From the four upstream tables to features: the join, the stop events, the features, their schema.

Pure functions over frames and arrays. Nothing here knows Dagster, storage or models.
"""
