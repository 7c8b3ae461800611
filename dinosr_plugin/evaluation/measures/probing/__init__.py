"""Linear probes: what can be read from frozen features."""
