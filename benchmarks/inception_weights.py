"""Convert FID Inception weights from a TorchScript file to safetensors for `raysde evaluate --features`.

    python benchmarks/inception_weights.py inception.torchscript.pt inception.safetensors

The script expects units with weight, beta, mean and var in TensorFlow's order; loading a TorchScript file runs its
code. Such a file has only the feature layers, so the result has no inception score. Prints the largest difference
between the features of both networks on random images.
"""

import argparse
import sys
from pathlib import Path

import torch
from safetensors.torch import save_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from raysde.evaluation.features.inception import Inception, network_of_arrays


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("source")
    arguments.add_argument("target")
    given = arguments.parse_args()
    script = torch.jit.load(given.source, map_location="cpu").eval()
    network: Inception = network_of_arrays([value for _, value in script.state_dict().items()])
    save_file({name: value for name, value in network.state_dict().items() if "tracked" not in name}, given.target)
    x = 2.0 * torch.rand(2, 3, 299, 299, generator=torch.Generator().manual_seed(0)) - 1.0
    with torch.no_grad():
        expected = script(x)
        apart = (network.features(x) - expected).abs().max() / expected.abs().max()
    print(f"{given.target}: largest difference of features {apart:.1e} of the largest feature")


if __name__ == "__main__":
    main()
