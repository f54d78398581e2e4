"""`python -m api.cli` is `milepost`."""

from api.cli.main import main

main()
