"""``python -m changedet``: the command line."""

from __future__ import annotations

from changedet.cli import main

if __name__ == "__main__":
    main()
