"""What ``script.py`` runs inside the environment to be proved. Imports nothing of bnbenv; Python 3.9 and newer."""
