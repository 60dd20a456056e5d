"""Hidden states below the lowest layer that trains, computed once and kept."""
