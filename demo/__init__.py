"""A self-checking demonstration: `make demo`.

`demo.job` is the interrupted job, a script that needs only Python; `demo.story`
interrupts it.  The package is not installed.
"""
