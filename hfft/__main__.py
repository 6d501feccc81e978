"""``python -m hfft`` is the same as ``hfft``."""

import sys

from hfft.cli import main

if __name__ == "__main__":
    sys.exit(main())
