"""Programs that the Python of a user's environment runs; they need nothing of bnbenv."""
