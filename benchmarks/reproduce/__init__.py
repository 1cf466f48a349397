"""The paper's experiments (Were RNNs All We Needed?, arXiv 2410.01201) beside its figures: `minrl reproduce`."""

from . import chomsky, length, parameter_ratios, selective_copy, shakespeare
from .frame import Experiment

# A plain table: a new experiment is one file and one line here.
EXPERIMENTS: dict[str, Experiment] = {
    "parameter_ratios": parameter_ratios.EXPERIMENT,
    "length": length.EXPERIMENT,
    "selective_copy": selective_copy.EXPERIMENT,
    "shakespeare": shakespeare.EXPERIMENT,
    "chomsky": chomsky.EXPERIMENT,
}
