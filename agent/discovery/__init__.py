"""What serves models on this node: by its processes, by its pods, and which pod has which GPU."""
