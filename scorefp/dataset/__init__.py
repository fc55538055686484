"""Sample sets: values with their levels, range and conditioning; dequantisation; bits per dimension."""

from .dataset import Dataset as Dataset
from .dequantise import (
    AbstractDequantiser as AbstractDequantiser,
    Dequantised as Dequantised,
    UniformDequantiser as UniformDequantiser,
)
from .quantisation import Quantisation as Quantisation, bits_per_dim as bits_per_dim
from .values import Interval as Interval
