"""Random Mask: clean training of a network whose feature maps carry fixed random masks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor, nn

from robustbench_lite.core.errors import InputError
from robustbench_lite.defenses.contract import ROBUST, Batch, Defense, Objective


@dataclass(frozen=True)
class RandomMaskTraining(Defense):
    """L = CE(f_M(x), y) (Luo et al., arXiv:2007.14249); the masks M are part of the network.

    They are set by the options of the architecture (`model.options.shallow_drop`, `deep_drop`),
    drawn once before training, and act in training and evaluation alike; the loss is the
    plain one on clean images, with no adversarial examples. It claims resistance to examples
    transferred from unmasked networks, not to attacks on the masked network itself.
    """

    def objective(
        self, networks: Mapping[str, nn.Module], batch: Batch, crafted: Mapping[str, Tensor]
    ) -> Objective:
        """One train-mode forward, of x."""
        del crafted
        network = networks[ROBUST]
        if not any(name.rpartition(".")[2] == "mask" for name, _ in network.named_buffers()):
            raise InputError(
                "random_mask needs a masked network, this one has no mask: set "
                "model.options.shallow_drop or model.options.deep_drop above 0"
            )
        loss = batch.label_losses(network(batch.x)).mean()
        return Objective(loss, {"clean_loss": loss.detach()})
