"""Data sets that carry their levels and range."""

from .dataset import Dataset as Dataset
from .digits import digits as digits
from .mnist import mnist as mnist
