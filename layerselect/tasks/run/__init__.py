"""What all runs share: settings, training, their folder and its files."""
