"""Lightning callbacks: schedule, checkpoints, progress, predictions and cost."""
