"""Threat models: a norm and a radius in pixel units of [0, 1]. Imports no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, get_args

from robustbench_lite.core.errors import InputError
from robustbench_lite.core.messages import shortened

Norm = Literal["Linf", "L2", "L1"]
_SHORT_NUMBER = re.compile(r"[-+]?[0-9_./]{1,40}([eE][-+]?[0-9]{1,3})?", re.ASCII)
_LARGEST_DENOMINATOR = 2550  # 0.5 / 255 and 0.1 / 255 among them
_LARGEST = 10**6  # no image has a diameter like that
NORMS: tuple[str, ...] = get_args(Norm)


def parse_eps(text: str | int | float | Fraction, name: str = "eps") -> Fraction:
    """Read a radius exactly, from a fraction (`"8/255"`) or a decimal (`"0.031"`).

    Args:
        text: as the user wrote it. A float that Python made of a short fraction (`8 / 255`) is
            that fraction; any other is read by its shortest decimal spelling.
        name: of the value, for messages.

    Returns:
        The exact value; 8/255 and 0.031 stay different.

    Raises:
        InputError: for what is no number, or is negative.
    """
    if isinstance(text, str) and not _SHORT_NUMBER.fullmatch(text.strip()):
        raise _no_number(text, name)  # `Fraction("1e999999999")` would take minutes
    try:
        eps = _of_float(text) if isinstance(text, float) else Fraction(text)
    except (ValueError, ZeroDivisionError, TypeError, OverflowError):
        raise _no_number(text, name) from None
    if eps > _LARGEST:
        shown = shortened(str(text), 80)
        raise InputError(f"{name}={shown} is larger than any image: inputs are in [0, 1]")
    if eps < 0:
        shown = shortened(str(text), 80)
        raise InputError(f"{name}={shown} is negative: it must be at least 0")
    return eps


def _of_float(number: float) -> Fraction:
    """A float as what was most likely written: `0.031`, or `8 / 255` of 16 digits."""
    decimal = Fraction(repr(float(number)))
    near = Fraction(number).limit_denominator(_LARGEST_DENOMINATOR)
    is_long = 10**6 % decimal.denominator != 0  # more than six decimals
    return near if is_long and float(near) == number else decimal


def _no_number(text: object, name: str) -> InputError:
    return InputError(
        f"{name}={shortened(repr(text), 80)} is no number: write a fraction such as 8/255 or a "
        "decimal such as 0.031"
    )


def format_eps(eps: Fraction) -> str:
    """The one spelling of a radius: a terminating decimal, else k/255, else n/d."""
    if (text := _terminating_decimal(eps)) is not None:
        return text
    if (eps * 255).denominator == 1:
        return f"{eps * 255}/255"
    return f"{eps.numerator}/{eps.denominator}"


def _terminating_decimal(value: Fraction) -> str | None:
    for digits in range(7):
        scaled = value * 10**digits
        if scaled.denominator == 1:
            whole, rest = divmod(scaled.numerator, 10**digits)
            return f"{whole}.{rest:0{digits}d}" if digits else str(whole)
    return None


@dataclass(frozen=True)
class ThreatModel:
    """What an attacker may do: move x by at most `eps` in `norm`, inside [0, 1].

    Args:
        norm: `"Linf"`, `"L2"` or `"L1"`.
        eps: exact radius in pixel units of [0, 1].

    Raises:
        InputError: for another norm, or an Linf radius above 1 (a 0-255 value, most likely).
    """

    norm: Norm
    eps: Fraction

    def __post_init__(self) -> None:
        if self.norm not in NORMS:
            raise InputError(f"norm={self.norm!r} is unknown; available: {', '.join(NORMS)}")
        if self.norm == "Linf" and self.eps > 1:
            shown = format_eps(self.eps)
            raise InputError(
                f"eps={shown} is larger than 1: inputs are in [0, 1]; did you mean {shown}/255?"
            )

    def check_diameter(self, n_values: int) -> None:
        """Raise InputError for a radius beyond the diameter of images with `n_values` values."""
        diameter = {"Linf": 1.0, "L2": n_values**0.5, "L1": float(n_values)}[self.norm]
        if float(self.eps) > diameter:
            raise InputError(
                f"eps={self.eps_text} is larger than the diameter {diameter:.3g} of these "
                f"images in {self.norm}: inputs are in [0, 1]; did you mean {self.eps_text}/255?"
            )

    @property
    def eps_text(self) -> str:
        return format_eps(self.eps)
