"""What people and programs read of a run: record, trace, plots, card."""
