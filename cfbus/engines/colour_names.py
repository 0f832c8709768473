"""What people call a colour: the nearest of a list of common ones, in CIELAB.

It knows single colours only, no pictures. The same colour has the same name everywhere; names of one
family are shades of one colour.
"""

from __future__ import annotations

from typing import TypeAlias

import numpy as np
import numpy.typing as npt

Floats: TypeAlias = npt.NDArray[np.float64]

# name, family, examples; colours of one family that lie close together count as one.
_COLOURS = (
    ("black", "black", "000000 0c0c0c 171717 140b07 060a16 160606 061206"),
    ("dark grey", "grey", "303030 3e3e3e 4d4d4d"),
    ("grey", "grey", "666666 7a7a7a 8e8e8e"),
    ("light grey", "grey", "a8a8a8 bebebe d2d2d2"),
    ("white", "white", "ffffff f0f0f0 fbfaf2"),
    ("bluish grey", "cool grey", "454f5c 5f6b7a 7d8a9a 9dabbb"),
    ("greenish grey", "green grey", "4a544a 667566 86968a"),
    ("brownish grey", "warm grey", "4c443e 6b6058 857a70 a3978b"),
    ("red", "red", "ff0000 e01010 d43030 c41818 f04040"),
    ("dark red", "red", "8b0000 600808 a01c1c 701828"),
    ("orange", "orange", "ff8000 ff9a20 ea6c14 f25c1c ffa64d e08030"),
    ("brown", "brown", "8b4513 7a4a28 965c30 a0643c 6e4a30 a87048"),
    ("dark brown", "brown", "482812 38200e 583418 443024"),
    ("light brown", "brown", "b98a5e c69c70 b49474"),
    ("beige", "beige", "e8d8b8 dac8a4 f0dcc4 d6c6b4"),
    ("cream", "cream", "fffdd0 faf2d6"),
    ("yellow", "yellow", "ffff00 ffe010 f4d01c fff060 e6c020"),
    ("dark yellow", "yellow", "b8860b b08c28 c8a020"),
    ("olive", "olive", "808000 6a6a20 8e8c34 585420"),
    ("yellow-green", "green", "9acd32 b4e040 86b040"),
    ("green", "green", "008000 00b400 00ff00 30a030 4a9030 50a060"),
    ("dark green", "green", "004000 1a4a1e 2a5020 0a3020 344824"),
    ("light green", "green", "90ee90 a8e0a0 b8e8b8"),
    ("teal", "teal", "008080 107272 0a5a5c 2c8c8c"),
    ("turquoise", "cyan", "40e0d0 24b8b0 60c8c0"),
    ("cyan", "cyan", "00ffff 20e8f4"),
    ("blue", "blue", "0000ff 1848d0 2060c0 4169e1 3878c0 2828c8 4682b4"),
    ("dark blue", "blue", "000080 191970 14104c 0a1a50 102c64 1e2e56 14244a"),
    ("light blue", "blue", "87ceeb a0c8f0 b8dcec 68b0f0 88acd8"),
    ("purple", "purple", "800080 780850 6b0c44 6a20a0 8844b4 9932cc 7030d0 8a5a9a"),
    ("dark purple", "purple", "340a48 4b0082 3c2048"),
    ("light purple", "purple", "c8a2e8 b090d8 d8bfd8 c0a8d8"),
    ("magenta", "magenta", "ff00ff e020c0 c71585 e04cd0"),
    ("pink", "pink", "ffc0cb ff90b0 f0a0b0 ff69b4 e8a4a0 f4b8a8"),
)

_ENCODED = np.arange(256) / 255
_LINEAR: Floats = np.where(_ENCODED <= 0.04045, _ENCODED / 12.92, ((_ENCODED + 0.055) / 1.055) ** 2.4)
# linear sRGB to XYZ, rows divided by the D65 white point
_TO_XYZ: Floats = np.array([[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750],
                    [0.0193339, 0.1191920, 0.9503041]]) / np.array([[0.95047], [1.0], [1.08883]])  # fmt: skip


def lab_of(rgb: npt.NDArray[np.uint8]) -> Floats:
    """sRGB (..., 3) to CIELAB (..., 3) under D65: L* 0..100, a* and b* around 0."""
    xyz = _LINEAR[rgb] @ _TO_XYZ.T
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), xyz * (841 / 108) + 4 / 29)
    lab = np.empty_like(f)
    lab[..., 0] = 116 * f[..., 1] - 16
    lab[..., 1] = 500 * (f[..., 0] - f[..., 1])
    lab[..., 2] = 200 * (f[..., 1] - f[..., 2])
    return lab


NAMES = tuple(name for name, _, _ in _COLOURS)
FAMILY = {name: family for name, family, _ in _COLOURS}
# for each name the indices of its family, its own among them
KIN = [[j for j, other in enumerate(NAMES) if FAMILY[other] == FAMILY[name]] for name in NAMES]
_EXAMPLES: Floats = lab_of(
    np.array([list(bytes.fromhex(code)) for _, _, codes in _COLOURS for code in codes.split()], np.uint8)
)
_EXAMPLES_32 = _EXAMPLES.astype(np.float32)  # half the time, and names do not hang on the eighth digit
_NAME_OF_EXAMPLE = np.array([i for i, colour in enumerate(_COLOURS) for _ in colour[2].split()])


def name_indices(lab: Floats) -> npt.NDArray[np.intp]:
    """The index into ``NAMES`` of the nearest example, for each colour of (..., 3)."""
    flat = lab.reshape(-1, 3).astype(np.float32)
    # Squared distance without the part that is the same for all examples; no matrix product,
    # whose threads would fight with the other workers for the cores.
    distance = np.tile((_EXAMPLES_32**2).sum(axis=1), (len(flat), 1))
    for axis in range(3):
        distance -= np.multiply.outer(flat[:, axis], 2 * _EXAMPLES_32[:, axis])
    indices: npt.NDArray[np.intp] = _NAME_OF_EXAMPLE[distance.argmin(axis=1)].reshape(lab.shape[:-1])
    return indices


def name_of(lab: Floats) -> str:
    return NAMES[int(name_indices(lab.reshape(1, 3))[0])]
