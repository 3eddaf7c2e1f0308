"""A Dagster asset graph that turns MBTA vehicle positions and schedules into a delay predictor."""
