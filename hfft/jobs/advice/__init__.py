"""What the images themselves say of a recipe: trainings and probes, cross-validated on cached activations."""
