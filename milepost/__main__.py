"""`python -m milepost` is `milepost`."""

from milepost.api.cli.main import main

if __name__ == "__main__":
    main()
