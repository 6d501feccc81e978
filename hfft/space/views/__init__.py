"""From data to what the Space shows: HTML, drawings and plots."""
