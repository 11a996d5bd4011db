"""What both training scripts share: configuration, losses, checkpoints, records. The loops are in `train/`."""
