"""``python -m swiftalign``, the same as ``swiftalign``."""

from swiftalign.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
