"""Pilots: which is the cheapest placement that is as good as training every layer, by short trainings."""
