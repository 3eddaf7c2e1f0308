"""The code location as it really runs: `dagster dev`, a browser, PostgreSQL, the commands of the workflows."""
