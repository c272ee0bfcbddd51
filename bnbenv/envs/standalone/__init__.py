"""What is written into the environments themselves: Python 3.10 and newer, and nothing but the standard library."""
