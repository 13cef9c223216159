"""`python -m sdquant_cli` and the `sdquant` script."""

from .interrupt import interruptible


def main() -> None:
    """Run the command line; importing it can be interrupted too."""
    with interruptible():
        from .cli import main as run

        run()


if __name__ == "__main__":
    main()
