"""What becomes of walks while parts of the service die, freeze and come back: rows of faults, and a random soak."""
