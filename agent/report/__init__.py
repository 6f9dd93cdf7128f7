"""The monthly efficiency review: what was paid, what it did, and where the seconds went."""
