"""Serve the Space: ``uv run python space_app.py [FLAGS]``; the page is ``hfft/space/tabs/page.py``."""

import sys

from hfft.cli import main

if __name__ == "__main__":
    sys.exit(main(["space", *sys.argv[1:]]))
