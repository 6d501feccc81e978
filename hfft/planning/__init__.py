"""From a model to a Plan: its anatomy, a policy's phases, the freeze."""
