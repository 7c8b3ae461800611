"""Checkpoints: any file in (``load``), any model read frame by frame (``readers``)."""
