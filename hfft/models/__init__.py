"""Load, download and save models; deltas; one recorded forward."""
