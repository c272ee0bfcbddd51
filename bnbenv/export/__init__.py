"""What other programs can read: requirements, conda, Dockerfile, PEP 751, kernelspecs of Jupyter, metrics.

All makers of texts here are pure; the commands read and write.
"""
