"""The journal library.  It reads no environment variables and no configuration files.

Its public names are exported by `milepost`.
"""
