# /// script
# requires-python = ">=3.11"
# dependencies = ["hfft[demo]"]
#
# [tool.uv.sources]
# hfft = { path = ".." }
# ///
"""Fine-tune on a folder of photos, one folder for each class, with nothing installed but uv.

``uv run scripts/photos.py PHOTOS [OUTPUT]``
Outside a checkout, say in ``tool.uv.sources`` above where hfft comes from, or leave that out for the released one.
"""

from __future__ import annotations

import sys

import hfft


def main(photos: str, output: str = "outputs/photos") -> None:
    """Choose nothing: look at the photos, train, and say how good it is and how to use it."""
    hfft.finetune(dataset_name=photos, output_dir=output)
    print(f"\nLabel more of them: hfft predict PHOTO --model {output}\nLook inside: hfft space --model {output}")


if __name__ == "__main__":
    if not 2 <= len(sys.argv) <= 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
