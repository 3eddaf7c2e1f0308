"""From features to models: split, encode, evaluate, tune, train, compress.

Arrays and bytes in, arrays and bytes out. Nothing here knows Dagster or storage.
"""
