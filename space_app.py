"""Serve the Space: ``uv run python space_app.py [FLAGS]``; the page itself is in ``hfft/space_layout.py``."""

from hfft.space import main

if __name__ == "__main__":
    raise SystemExit(main())
