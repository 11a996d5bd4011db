"""A data set becomes a run folder: configuration, training loop, losses, checkpoints, calibration."""
