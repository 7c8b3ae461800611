"""Configs: ``fairseq-hydra-train --config-path pkg://dinosr_plugin.config.pretraining --config-name dinosr_tiny``."""
