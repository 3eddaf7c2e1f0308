"""How colours look to people of any colour vision, and the contrast of one with another."""

import numpy as np
from matplotlib.colors import to_rgb

VISIONS = {
    "common": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
"""How linear RGB is seen: the matrices of Machado, Oliveira and Fernandes (2009) for the severity 1."""
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)
WHITE_XYZ = TO_XYZ @ np.ones(3)


def measure_contrast(colour: str, other: str) -> float:
    """Return the contrast of two colours as the Web Content Accessibility Guidelines define it, from 1 to 21."""
    darker, lighter = sorted(float(TO_XYZ[1] @ _linearize(each)) for each in (colour, other))
    return (lighter + 0.05) / (darker + 0.05)


def measure_distance(colour: str, other: str, vision: str) -> float:
    """Return the distance of two colours in CIE Lab, as people with a colour vision see them."""
    return float(np.linalg.norm(to_lab(colour, vision) - to_lab(other, vision)))


def to_lab(colour: str, vision: str = "common") -> np.ndarray:
    """Return CIE Lab (3,) of a colour as people with a colour vision see it; the first is the lightness, 0 to 100."""
    seen = np.clip(VISIONS[vision] @ _linearize(colour), 0, 1)
    x, y, z = TO_XYZ @ seen / WHITE_XYZ
    cube_x, cube_y, cube_z = (np.cbrt(v) if v > 0.008856 else 7.787 * v + 16 / 116 for v in (x, y, z))
    return np.array([116 * cube_y - 16, 500 * (cube_x - cube_y), 200 * (cube_y - cube_z)])


def _linearize(colour: str) -> np.ndarray:
    """Return linear RGB (3,), from 0 to 1."""
    values = np.array(to_rgb(colour), dtype=float)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)
