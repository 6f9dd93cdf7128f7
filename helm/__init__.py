"""The chart, and what writes those of its files that are views of something else."""
