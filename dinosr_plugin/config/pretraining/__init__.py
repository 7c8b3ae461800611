"""Hydra requires this file in a folder of configs that it finds by the name of a package."""
