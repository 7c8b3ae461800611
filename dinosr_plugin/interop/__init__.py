"""Models of other projects: fairseq's own, CPC_audio."""
