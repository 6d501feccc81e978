"""Trainings of the Space's visitors: each in a process of its own, one after the other."""
