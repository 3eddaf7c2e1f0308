"""Group `production`: the leaderboard of all models, and the model in production."""
