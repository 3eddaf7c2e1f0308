"""Group `production`: how good every model is, and which one is trusted."""
