"""Hydra groups: `model`, `data`, `training`; checked against `training.config.TrainConfig`."""
