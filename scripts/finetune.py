"""Fine-tune an image classifier: ``accelerate launch scripts/finetune.py [FLAGS | CONFIG.yaml [FLAGS]]``."""

import sys

from hfft.cli import main

if __name__ == "__main__":
    sys.exit(main(["finetune", *sys.argv[1:]]))
