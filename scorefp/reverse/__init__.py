"""The process run backwards: the probability-flow ODE, steps of the reverse SDE, paths of it and their weights."""

from .latents import RoundTrip as RoundTrip, decode as decode, encode as encode, round_trip as round_trip
from .ode import (
    Integrator as Integrator,
    Solved as Solved,
    flow_map as flow_map,
)
from .paths import (
    reverse_path as reverse_path,
)
from .steps import (
    ReverseStep as ReverseStep,
    ancestral_step as ancestral_step,
    euler_maruyama_step as euler_maruyama_step,
    exponential_step as exponential_step,
    heun_step as heun_step,
)
from .weights import weight_rate as weight_rate
