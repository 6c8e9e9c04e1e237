"""Accuracy of a bundle on labelled videos, and the checks of `skd-edge verify`."""
