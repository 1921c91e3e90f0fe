"""`python -m raysim`: the command line."""

from raysim.cli.main import main

if __name__ == "__main__":
    main()
