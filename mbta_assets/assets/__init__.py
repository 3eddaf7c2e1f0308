"""The lineage: a module a group. Assets are thin: they read, call one function of the platform, and describe."""
