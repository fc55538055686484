"""Figures: the curves of several audits side by side, and samples as images. They need matplotlib."""

from .compare import compare as compare
from .images import image_grid as image_grid
