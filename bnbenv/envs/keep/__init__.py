"""Environments on top of a torch that is there: a container's, a cluster module's, Colab's, conda's, a Jetson's.

The generation holds only what comes on top; torch, and what torch requires, is never touched nor hidden.
"""
