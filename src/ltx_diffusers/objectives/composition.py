"""Several objectives of a VAE as one: hooks in their order, weights, starts, balances and the learned scale."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import nn

from ..errors import InputError
from ..functional.draws import Draws
from ..geometry import VideoSize
from .balance import last_layer
from .vae_objective import CONSTANT, Balance, PlainObjective, PosteriorPass, VAEObjective, VAEPass


@dataclass(frozen=True)
class Term:
    """An objective and its part in the whole.

    Attributes:
        objective: A `VAEObjective`, or a callable from `VAEPass` to losses (B,).
        weight: Factor of its loss.
        balance: How another factor is found while training.
        start_step: First step that it takes part in.
    """

    objective: object
    weight: float = 1.0
    balance: Balance = CONSTANT
    start_step: int = 0


class Composition(nn.Module):
    """The objectives of a training run, called hook by hook in a training pass.

    The loss is the sum over terms of weight * factor * loss, where the factor is 1 or that of an adaptive balance. With
    a learned scale s, the reconstruction terms together enter as R / exp(s) + s, as in the likelihood of
    a Laplace distribution with a width that is learned along; all other terms then weigh more as R falls.

    Args:
        terms: By the name under which their losses are logged.
        learned_scale: First value of s, or None to leave it out.

    Raises:
        InputError: If an objective isn't one of a VAE, none of them gives a
            loss, or a balance has no reconstruction loss to compare with.
    """

    def __init__(self, terms: Mapping[str, Term], learned_scale: float | None = None) -> None:
        super().__init__()
        self.settings = dict(terms)
        self.terms = {name: _objective(name, term.objective) for name, term in terms.items()}
        self.parts = named_modules(self.terms)
        self.log_scale = None
        if learned_scale is not None:
            self.log_scale = nn.Parameter(torch.tensor(float(learned_scale)))
        if not any(term.gives_loss for term in self.terms.values()):
            raise InputError("there is no objective with a loss", got=", ".join(terms) or "none")
        compares = any(self._is_adaptive(name) for name in terms) or learned_scale is not None
        rebuilding = [name for name, term in self.terms.items() if term.is_reconstruction]
        if compares and not any(terms[name].start_step == 0 for name in rebuilding):
            raise InputError(
                "an adaptive balance or a learned scale needs a reconstruction objective from the first step on",
                got=", ".join(terms),
                fix="add l1 or l2",
            )
        for name in rebuilding:
            if self._is_adaptive(name):
                raise InputError(
                    f"the reconstruction objective {name!r} can't be balanced against the reconstruction loss",
                    fix="set its balance to {kind: constant}",
                )
        self._diagnostics: dict[str, torch.Tensor] = {}

    def setup(self, vae: nn.Module) -> None:
        """Let every objective get ready for the VAE.

        Raises:
            InputError: If a balance goes by a layer that the VAE doesn't have or that isn't trained.
        """
        for name, term in self.terms.items():
            term.setup(vae)
            if self._is_adaptive(name):
                last_layer(vae, self.settings[name].balance.layer)

    def check_latents(self, size: VideoSize) -> None:
        """Refuse latents of a size that an objective can't work with. Raises: `InputError`."""
        for term in self.terms.values():
            term.check_latents(size)

    def on_posterior(self, posterior: PosteriorPass, step: int) -> dict[str, torch.Tensor]:
        """Losses (B,) of the encoder's output, by term."""
        return _given({name: term.on_posterior(posterior) for name, term in self._active(step)})

    def on_latents(self, latents: torch.Tensor, draws: Draws | None, step: int) -> torch.Tensor:
        """What the decoder gets instead of the drawn latents (B, C, F', H', W')."""
        for name, term in self.terms.items():
            if step >= self.settings[name].start_step:
                latents = term.on_latents(latents, draws)
            elif self.training:
                # What a term learns takes part before its start, too: processes must agree on who does.
                for parameter in term.parameters():
                    if parameter.requires_grad:
                        latents = latents + 0 * parameter.sum()
        return latents

    def on_reconstruction(self, record: VAEPass, step: int) -> dict[str, torch.Tensor]:
        """Losses (B,) of the decoder's output, by term."""
        return _given({name: term.on_reconstruction(record) for name, term in self._active(step)})

    def combine(self, losses: list[dict[str, torch.Tensor]], vae: nn.Module) -> dict[str, torch.Tensor]:
        """The losses that the hooks gave, and under "loss" what is to be minimised, each (B,).

        Args:
            losses: What `on_posterior` and `on_reconstruction` returned.
            vae: The model, for the layers that balances go by.
        """
        summed = {
            name: sum(found)
            for name in self.terms
            if (found := [given[name] for given in losses if name in given])
        }
        rebuilding = {name: loss for name, loss in summed.items() if self.terms[name].is_reconstruction}
        self._diagnostics = {}
        # In the order of the config, so that a sum of the same terms is always the same to the last bit.
        total = sum(self.settings[name].weight * loss for name, loss in rebuilding.items())
        if self.log_scale is not None:
            total = total / self.log_scale.exp() + self.log_scale
            self._diagnostics["log_scale"] = self.log_scale.detach()
        reference = total
        for name, loss in summed.items():
            if name not in rebuilding:
                total = total + self._factor(name, loss, reference, vae) * loss
        return summed | {"loss": total}

    def diagnostics(self) -> dict[str, torch.Tensor]:
        """Figures of the last pass: factors, the scale, and what the objectives report."""
        figures = dict(self._diagnostics)
        for name, term in self.terms.items():
            figures |= {f"{name}/{key}": value for key, value in term.diagnostics().items()}
        return figures

    def _factor(
        self, name: str, loss: torch.Tensor, reference: torch.Tensor, vae: nn.Module
    ) -> torch.Tensor | float:
        weight, balance = self.settings[name].weight, self.settings[name].balance
        if balance.kind == "constant" or not torch.is_grad_enabled():
            return weight
        layer = last_layer(vae, balance.layer)
        factor = self.terms[name].balance(loss, reference, layer, balance.cap)
        self._diagnostics[f"{name}/factor"] = factor
        return weight * factor

    def _is_adaptive(self, name: str) -> bool:
        return self.settings[name].balance.kind == "adaptive"

    def _active(self, step: int) -> list[tuple[str, VAEObjective]]:
        return [(name, term) for name, term in self.terms.items() if step >= self.settings[name].start_step]


def _objective(name: str, objective: object) -> VAEObjective:
    if getattr(objective, "inputs", None) is not VAEPass:
        raise InputError(f"the objective {name!r} is not one of a VAE", fix="choose l1, l2 or kl")
    return objective if isinstance(objective, VAEObjective) else PlainObjective(objective)


def named_modules(modules: Mapping[str, nn.Module]) -> nn.ModuleDict:
    """Modules under names that users choose, which may be those of a module's own attributes, like "half"."""
    return nn.ModuleDict({f"of {name}".replace(".", "_"): module for name, module in modules.items()})


def _given(losses: dict[str, torch.Tensor | None]) -> dict[str, torch.Tensor]:
    return {name: loss for name, loss in losses.items() if loss is not None}
