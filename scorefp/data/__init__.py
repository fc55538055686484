"""Data sets from files, folders, tables and iterables, in memory or read while a model trains."""

from ..dataset import (
    AbstractDequantiser as AbstractDequantiser,
    Dataset as Dataset,
    Interval as Interval,
    Quantisation as Quantisation,
    UniformDequantiser as UniformDequantiser,
    bits_per_dim as bits_per_dim,
)
from .cifar import read_cifar as read_cifar
from .files import read_arrays as read_arrays
from .folder import ImageFolder as ImageFolder
from .handwritten import digits as digits, mnist as mnist
from .hugging_face import HuggingFace as HuggingFace
from .idx import read_idx as read_idx
from .imagenet import read_imagenet as read_imagenet
from .loader import Loader as Loader
from .on_host import OnHost as OnHost
from .photographs import photographs as photographs
from .source import AbstractRows as AbstractRows, AbstractSource as AbstractSource, Batches as Batches
from .split import Part as Part, split as split
from .to_file import sample_to as sample_to
