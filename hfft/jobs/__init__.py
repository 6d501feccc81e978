"""Whole jobs, end to end. Start reading at `hfft.jobs.finetune`."""
