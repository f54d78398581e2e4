"""A demonstration that checks itself: `make demo`.

`demo.job` is the job that is interrupted, a script that needs nothing but Python;
`demo.story` interrupts it.  Neither is part of what gets installed.
"""
