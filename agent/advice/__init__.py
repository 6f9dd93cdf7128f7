"""What would make a node better, and by how much."""
