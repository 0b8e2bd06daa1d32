"""A seeded pattern for moving-shapes: detail of several wavelengths, which an autoencoder has to spend latents on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

_WAVES = 6
_WAVELENGTHS = (0.06, 0.4)  # range of the wavelengths, drawn evenly on a logarithmic scale


@dataclass(frozen=True)
class Texture:
    """A sum of plane waves with a colour each.

    Attributes:
        frequency: Cycles per unit of length along x and y, (waves, 2).
        phase: In radians, (waves,).
        color: Amplitude of each wave in red, green and blue, (waves, 3).
    """

    frequency: np.ndarray
    phase: np.ndarray
    color: np.ndarray

    def __call__(self, x: np.ndarray, y: np.ndarray) -> np.ndarray:
        """The pattern at places of one shape (...), as (..., 3) around 0, at most the amplitude away from it."""
        angle = sum(
            2 * np.pi * place[..., None] * frequency.astype(np.float32)
            for place, frequency in zip((x, y), self.frequency.T, strict=True)
        )
        return np.sin(angle + self.phase.astype(np.float32)) @ self.color.astype(np.float32)


def draw_texture(rng: np.random.Generator, amplitude: float) -> Texture:
    """Draw a pattern whose values are at most the amplitude away from 0."""
    angle = rng.uniform(0, np.pi, _WAVES)
    wavelength = np.exp(rng.uniform(*np.log(_WAVELENGTHS), _WAVES))
    frequency = np.stack([np.cos(angle), np.sin(angle)], axis=1) / wavelength[:, None]
    share = rng.dirichlet(np.ones(_WAVES), 3).T  # each colour's waves add up to 1
    sign = rng.choice([-1.0, 1.0], (_WAVES, 3))
    return Texture(frequency, rng.uniform(0, 2 * np.pi, _WAVES), amplitude * share * sign)
