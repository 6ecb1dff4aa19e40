"""What happens around training steps: schedule, checkpoints, progress, costs, pictures."""
