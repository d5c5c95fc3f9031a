"""Makes observers.safetensors: five batches of activations, and what PyTorch's observers say of them.

    pip install torch safetensors
    python make_observers.py

Runs on the CPU. The ranges, the scale and the histogram come out of torch.ao.quantization's own observers, each of which has seen the
batches in order: MinMaxObserver, MovingAverageMinMaxObserver (averaging constant 0.01), HistogramObserver (2048 bins), all for qint8, per tensor,
symmetric.
"""

import json

import numpy
import torch
from safetensors.torch import save_file
from torch.ao.quantization.observer import HistogramObserver, MinMaxObserver, MovingAverageMinMaxObserver

BATCHES, TOKENS, CHANNELS = 5, 40, 24


def activations(batch):
    """Heavy-tailed, one channel large, and in the third batch one value far from all others."""
    generator = numpy.random.default_rng(3000 + batch)
    x = generator.standard_t(5, (TOKENS, CHANNELS)) * (0.5 + 0.3 * batch)
    x[:, 7] = x[:, 7] * 4 + 3
    if batch == 2:
        x[11, 3] = -57.25
    return torch.tensor(x).float()


tensors = {}
observers = {
    "min_max": MinMaxObserver,
    "moving_average": MovingAverageMinMaxObserver,
    "histogram": HistogramObserver,
}
made = {name: kind(dtype=torch.qint8, qscheme=torch.per_tensor_symmetric) for name, kind in observers.items()}
for batch in range(BATCHES):
    x = activations(batch)
    tensors[f"x.{batch}"] = x
    for observer in made.values():
        observer(x)
for name, observer in made.items():
    scale, _ = observer.calculate_qparams()
    tensors[f"{name}.range"] = torch.stack([observer.min_val, observer.max_val])
    tensors[f"{name}.scale"] = scale.reshape(1)
tensors["histogram.counts"] = made["histogram"].histogram.contiguous()
save_file(tensors, "observers.safetensors", metadata={"format": "pt", "versions": json.dumps({"torch": torch.__version__})})
