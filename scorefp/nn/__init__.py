"""Networks to put into a score. Any other callable does as well."""

from .activation import silu as silu, softplus as softplus
from .convolution import convolution as convolution
from .embedding import fourier_features as fourier_features
from .mlp import MLP as MLP, ScalarMLP as ScalarMLP
from .precision import full_precision as full_precision
from .unet import UNet as UNet
