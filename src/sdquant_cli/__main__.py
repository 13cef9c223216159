"""`python -m sdquant_cli` and the `sdquant` script."""

from .cli import main

if __name__ == "__main__":
    main()
