"""Speaker embeddings: making them, trials of them, their scores, and clusters of recordings."""
