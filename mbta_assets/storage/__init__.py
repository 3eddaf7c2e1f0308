"""Storage of daily tables, model bundles and reports, on a disk or in Google Cloud.

Everything stored is replaced whole or not at all. What a table means is defined in `transit`, what a bundle contains in
`ml`; how Dagster reads and writes through these classes is in `defs.io_managers`.
"""
