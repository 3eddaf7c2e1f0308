"""Where tables and model bundles are kept, and how Dagster gets to them.

In this room: the Parquet lake, the bundle store, and the IO managers over the two. What is stored is
replaced whole or not at all. Not here: what a table means (`transit`), what is in a bundle (`learning`).
"""
