"""Entry point of `python -m sdquant_cli` and of the `sdquant` script."""

from .interrupt import interruptible


def main() -> None:
    """Run the command line; an interrupt while it is imported is handled too."""
    with interruptible():
        from .cli import main as run

        run()


if __name__ == "__main__":
    main()
