"""What stands behind the tabs Labels and Label next: which images, what is decided about them, what comes of it."""
