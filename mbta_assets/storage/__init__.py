"""Where tables and bundles are kept, and the IO managers that put them there.

A partition is replaced whole or not at all, and a bundle never changes once it is written. Nothing here knows
what a table or a model means.
"""
