"""Corrupted copies for training on speakers: noise, music, other voices and reverberation, as transforms of views."""
