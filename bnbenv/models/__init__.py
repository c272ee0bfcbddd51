"""Models and their checkpoints: whether one fits, how to load it, and a checkpoint that needs no conversion."""
