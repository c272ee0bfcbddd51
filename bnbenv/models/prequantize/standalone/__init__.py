"""What runs in the environment: quantize a checkpoint, one tensor after another. bnbenv is not importable here."""
