"""Data sets that carry their levels and range: in memory, or read while a model trains."""

from .arrays import Arrays as Arrays
from .dataset import Dataset as Dataset
from .digits import digits as digits
from .mnist import mnist as mnist
from .source import AbstractRows as AbstractRows, AbstractSource as AbstractSource, Feed as Feed
from .values import Interval as Interval
