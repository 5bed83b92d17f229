"""Public data sets to a data folder: fetched, checked, freed of what is held out. `training.download` runs it."""
