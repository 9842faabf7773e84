"""torchwm's files: checkpoints, pretrained folders, exported networks."""
