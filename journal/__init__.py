"""The journal: a library that reads no environment variable and no configuration file.

Its public names are those of `milepost`.
"""
