"""Data sets that carry their levels and range: in memory, or read while a model trains."""

from .arrays import Arrays as Arrays
from .batches import Batches as Batches
from .dataset import Dataset as Dataset
from .digits import digits as digits
from .files import read_arrays as read_arrays
from .folder import ImageFolder as ImageFolder
from .hugging_face import HuggingFace as HuggingFace
from .mnist import mnist as mnist
from .source import AbstractRows as AbstractRows, AbstractSource as AbstractSource, Feed as Feed
from .split import Part as Part, split as split
from .values import Interval as Interval
