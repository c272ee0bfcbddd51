"""``python -m bnbenv``, and the program ``bnbenv``."""


def main() -> int:
    """Run the command line. Ctrl-C while it is still being loaded ends it, too, as it ends any command."""
    try:
        from bnbenv.cli import main as run
    except KeyboardInterrupt:
        return 130
    code = run()
    if code < 0:
        from bnbenv.cli.interrupt import end_by_signal

        return end_by_signal(-code)
    return code


if __name__ == "__main__":
    raise SystemExit(main())
