"""Look inside a finished model: profile, activation maps, attention, evidence."""
