"""Similarity of models and layers: what is compared, the pass over the sound, figures and pictures."""
