"""FourierFT (arXiv:2405.03003): a sparse spectrum of updates."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pydantic import Field

from swiftalign.methods.base import ALIGNER_LINEAR, Method, Part, PositiveInt, Shape, Usage
from swiftalign.methods.merging import SavedAdapter, tensor_bytes
from swiftalign.model.tree import Kind, Module
from swiftalign.problems import Problem, register

register("fourier-frequencies", "error", "FourierFT has more frequencies than a layer has weights")

_SPECTRUM = Part("fourierft_spectrum", start="zero", size_side=0)


class Fourierft(Method):
    """Some coefficients of the spectrum of a layer's change are learned; the others are zero."""

    name = "fourierft"
    adapts = frozenset({Kind.LINEAR})
    parts = (_SPECTRUM,)
    size = "fourier_n_frequency"
    size_name = "n_frequency"
    size_pattern = "n_frequency_pattern"
    saves_biases = False
    dense_copies = 3
    summary = "a sparse spectrum of updates for each of the aligner's Linear layers (arXiv:2405.03003)"
    aligner_lr = "1.0e-3"
    demo_lr = "1.0"
    recipe = f"train_type: fourierft\n{ALIGNER_LINEAR}fourier_n_frequency: 2000\nfourier_scaling: 300.0\n"

    fourier_n_frequency: PositiveInt = Field(2000, serialization_alias="n_frequency")
    fourier_scaling: float = Field(300.0, gt=0, serialization_alias="scaling")

    def shapes(self, layer: Module) -> dict[Part, Shape]:
        """The learned coefficients."""
        return {_SPECTRUM: (self.fourier_n_frequency,)}

    def problems(self, usage: Usage) -> Iterable[Problem]:
        count, sizes = self.fourier_n_frequency, {layer.name: layer.weight.numel for layer in usage.layers}
        name, size = min(sizes.items(), key=lambda item: item[1], default=("", count))
        if count > size:
            message = f"fourier_n_frequency {count} is more than the {size} weights of {name}"
            hint = "choose at most as many frequencies as the smallest layer has weights:"
            fix = {"tuner": {"fourier_n_frequency": size // 2}}
            yield Problem("fourier-frequencies", message, hint, fix, usage.where("tuner", "fourier_n_frequency"))

    @staticmethod
    def merge(adapter: SavedAdapter, dtype: str | None) -> Iterator[tuple[str, bytes]]:
        """W + s Re(F^-1(S)): S [out, in] is zero but for the learned spectrum at random places, F^-1 the inverse FFT.

        Equal to peft's merge bit for bit; the random places are drawn only once for layers of the same size.

        References:
            peft `tuners/fourierft/layer.py`, `update_layer`, `get_delta_weight` and `merge`.
        """
        import torch

        scaling, places = adapter.config.get("scaling", 150.0), torch.empty(0)
        for layer in sorted(adapter.layers, key=lambda layer: adapter.base[f"{layer}.weight"].info.numel):
            weight, spectrum = adapter.weight(layer, dtype), adapter.part(layer, "fourierft_spectrum")
            if len(places) != weight.numel():
                generator = torch.Generator().manual_seed(adapter.config.get("random_loc_seed", 777))
                places = torch.randperm(weight.numel(), generator=generator)
            dense = torch.zeros(weight.shape)
            dense.view(-1)[places[: len(spectrum)]] = spectrum
            weight += torch.fft.ifft2(dense).real * scaling
            yield f"{layer}.weight", tensor_bytes(weight)
