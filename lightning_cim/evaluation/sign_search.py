"""Worst-case search along the sign of the gradient (projected gradient descent on the weights)."""

from __future__ import annotations

from lightning_cim.evaluation.attack import Attack


def sign_search(attack: Attack, steps: int) -> None:
    """Move every weight by bound / steps against the sign of its gradient, ``steps`` times, never beyond the bound.

    The gradient is that of the margin loss summed over the whole data. Costs ``steps`` forward-backward passes and one
    forward pass. Stops early when every prediction is wrong by more than kappa, because nothing pulls any more.

    Args:
        attack: The network and the data; its history and best chip are filled.
        steps: At least 1; 10 to 20 in the reference code, which does not clip (github.com/MariusAnje/CIM_CW).
    """
    deviations = attack.nothing()
    for _ in range(steps):
        tally, gradients = attack.gradient(deviations)
        attack.note(deviations, tally)
        if not any(bool(gradient.any()) for gradient in gradients.values()):
            return
        stride = attack.bound / steps
        moved = {name: value - stride * gradients[name].sign() for name, value in deviations.items()}
        deviations = attack.clipped(moved)
    attack.note(deviations, attack.score(deviations))
