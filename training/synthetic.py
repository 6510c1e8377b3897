"""The embedded data set: 100 classes of drawn pictures, made on the spot, the same everywhere.

A class is one of ten shapes filled with one of ten textures ("striped star"); its superclass is the
shape. Place, size, turn, colours, background and noise are random and say nothing about the class,
so a net has to find edges and patterns. It stands in for CIFAR-100 where that is not at hand;
accuracies on one say nothing about the other.

The same seed gives the same bytes on every machine: all randomness is the raw output of PCG64,
whose stream NumPy never changes, and all arithmetic is float32 +, -, *, / and square root, which
IEEE 754 rounds exactly. No sine, no power, no reduction, nothing whose last bit is a library's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from training.dataset import CLASSES, IMAGE_SHAPE, Dataset, Images, Labels, checksum

# float32 [N, 32, 32], or [N, 1, 1] for one value a picture; NumPy's stubs lose it at every step.
Plane = Any

SIZE: Final = IMAGE_SHAPE[0]

# What is drawn, and how hard it is to tell: every range is uniform.
RADIUS: Final = (11.0, 15.0)  # of the shape, pixels
SHIFT: Final = 2.0  # of its centre, pixels either way
TURN: Final = 0.15  # tangent of half the largest turn either way: 0.15 is 17 degrees
PERIOD: Final = (5.5, 7.0)  # of a texture, pixels
LEVELS: Final = (48.0, 128.0, 208.0)  # mean brightness of two fills and background, in any order
JITTER: Final = 16.0  # of each of these, either way
CHROMA: Final = 60.0  # of a colour channel about its brightness, either way
SLOPE: Final = 15.0  # of the background from the centre to an edge, either way
NOISE: Final = 24.0  # largest noise of a channel of a pixel; triangular, so its deviation is 10


class Canvas(NamedTuple):
    """Where a texture is painted: all float32 [N, 32, 32], but ``period`` and ``radius`` [N, 1, 1].

    ``x`` to the right and ``y`` upwards are in pixels from the shape's centre and turn with it,
    ``u`` and ``v`` are the same from a random origin, in periods. ``depth`` is the distance inside
    the outline.
    """

    x: Plane
    y: Plane
    u: Plane
    v: Plane
    depth: Plane
    period: Plane
    radius: Plane


def load(seed: int = 0, train: int = 20_000, test: int = 2_000) -> Dataset:
    """Draw ``train`` and ``test`` pictures, the same number of every class, in random order.

    About 2 seconds for the default sizes on one core. Raises ``ValueError`` where a size is not a
    positive multiple of 100.
    """
    train_images, train_labels = _split(seed, 0, train)
    test_images, test_labels = _split(seed, 1, test)
    return Dataset(
        name="synthetic",
        checksum=checksum(train_images, train_labels, test_images, test_labels),
        train_images=train_images,
        train_labels=train_labels,
        test_images=test_images,
        test_labels=test_labels,
        class_names=tuple(f"{texture} {shape}" for shape in SHAPES for texture in TEXTURES),
        superclass_names=tuple(SHAPES),
        superclass_of=tuple(label // len(TEXTURES) for label in range(CLASSES)),
    )


def picture(label: int, seed: int) -> Images:
    """Draw one example of the class ``label``: uint8 [32, 32, 3]. No data set holds it."""
    image: Images = _draw(label, 1, np.random.PCG64([seed, 2, label]))[0]
    return image


def _split(seed: int, split: int, count: int) -> tuple[Images, Labels]:
    if count <= 0 or count % CLASSES:
        raise ValueError(
            f"{count} synthetic pictures cannot be the same number of every class: "
            f"choose a positive multiple of {CLASSES}"
        )
    each = count // CLASSES
    order = np.argsort(np.random.PCG64([seed, split]).random_raw(count), kind="stable")
    place = np.argsort(order, kind="stable").reshape(CLASSES, each)
    images = np.empty((count, *IMAGE_SHAPE), np.uint8)
    for label in range(CLASSES):
        images[place[label]] = _draw(label, each, np.random.PCG64([seed, split, label]))
    return images, order.astype(np.int64) // each


def _draw(label: int, count: int, bits: np.random.PCG64) -> Images:
    """Draw ``count`` pictures of one class: uint8 [count, 32, 32, 3]."""
    shape = list(SHAPES.values())[label // len(TEXTURES)]
    texture = list(TEXTURES.values())[label % len(TEXTURES)]
    draws = iter(_uniform(bits, 32, count))

    def between(low: float, high: float) -> Plane:
        return next(draws) * (high - low) + low

    # From pixels to the shape's own, turned frame.
    radius, period = between(*RADIUS), between(*PERIOD)
    grid = np.arange(SIZE, dtype=np.float32) - (SIZE - 1) / 2
    column, row = grid[None, None, :], -grid[None, :, None]
    x, y = column - between(-SHIFT, SHIFT), row - between(-SHIFT, SHIFT)
    tangent = between(-TURN, TURN)
    norm = 1 + tangent * tangent
    cosine, sine = (1 - tangent * tangent) / norm, 2 * tangent / norm
    x, y = cosine * x + sine * y, cosine * y - sine * x

    distance = shape(x / radius, y / radius) * radius
    u, v = x / period + between(0, 1), y / period + between(0, 1)
    mix = texture(Canvas(x, y, u, v, -distance, period, radius))
    inside = _edge(-distance)

    levels = _ORDERS[(between(0, 1) * len(_ORDERS)).astype(np.intp)[:, 0, 0]]
    colours = []  # of the first fill, the second and the background; red, green, blue of each
    for place in range(3):
        level = levels[:, place, None, None] + between(-JITTER, JITTER)
        tints = [between(-CHROMA, CHROMA) for _ in range(3)]
        grey = (tints[0] + tints[1] + tints[2]) / 3
        colours.append([level + tint - grey for tint in tints])

    noise = _bytes(bits, (2, 3, count, SIZE, SIZE))
    images = np.empty((count, *IMAGE_SHAPE), np.uint8)
    for channel in range(3):
        first, second, behind = (colour[channel] for colour in colours)
        fill = first + mix * (second - first)
        ground = behind + column * between(-SLOPE / 16, SLOPE / 16)
        ground = ground + row * between(-SLOPE / 16, SLOPE / 16)
        grain = np.add(noise[0, channel], noise[1, channel], dtype=np.float32) - 255
        pixel = ground + inside * (fill - ground) + grain * (NOISE / 255)
        images[..., channel] = np.clip(pixel + 0.5, 0, 255)
    return images


def _uniform(bits: np.random.PCG64, kinds: int, count: int) -> Plane:
    """Uniform multiples of 2**-24 in [0, 1): float32 [kinds, count, 1, 1]."""
    raw = bits.random_raw(kinds * count) >> np.uint64(40)
    return raw.astype(np.float32).reshape(kinds, count, 1, 1) * 2.0**-24


def _bytes(bits: np.random.PCG64, shape: tuple[int, ...]) -> NDArray[np.uint8]:
    """Uniform bytes, taken from the stream's words with the lowest byte first."""
    words = -(-int(np.prod(shape)) // 8)
    raw = bits.random_raw(words).astype("<u8").view(np.uint8)
    return raw[: int(np.prod(shape))].reshape(shape)


_ORDERS: Final = np.array(
    [
        [LEVELS[i] for i in order]
        for order in ((0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0))
    ],
    np.float32,
)


# Shapes: (an approximation of) the signed distance to the outline, negative inside, of x to the
# right and y upwards, where the shape fills about the unit circle. After Inigo Quilez,
# "2D distance functions", https://iquilezles.org/articles/distfunctions2d/.


def _length(x: Plane, y: Plane) -> Plane:
    return np.sqrt(x * x + y * y)


def _box(x: Plane, y: Plane, half_width: float, half_height: float) -> Plane:
    return np.maximum(np.abs(x) - half_width, np.abs(y) - half_height)


def _disc(x: Plane, y: Plane) -> Plane:
    return _length(x, y) - 0.9


def _square(x: Plane, y: Plane) -> Plane:
    return _box(x, y, 0.8, 0.8)


def _triangle(x: Plane, y: Plane) -> Plane:
    sides = np.abs(x) * 0.866025 + y * 0.5
    return np.maximum(sides, -y - 0.1) - 0.5


def _star(x: Plane, y: Plane) -> Plane:
    # Fold the plane into one half of one of five points, then measure to that point's one side.
    cosine, sine = 0.809017, 0.587785
    x = np.abs(x)
    for side in (cosine, -cosine):
        over = 2 * np.maximum(side * x - sine * y, 0)
        x, y = x - over * side, y + over * sine
    x, y = np.abs(x), y - 1.05
    along_x, along_y = 0.3633, -0.55  # from the tip to the inner corner
    part = np.clip((x * along_x + y * along_y) / 0.43449, 0, 1)
    away = _length(x - along_x * part, y - along_y * part)
    return np.where(y * along_x > x * along_y, away, -away)


def _heart(x: Plane, y: Plane) -> Plane:
    x, y = np.abs(x) / 1.7, y / 1.7 + 0.55
    lobe = _length(x - 0.25, y - 0.75) - 0.353553
    half = np.maximum(x + y, 0) / 2
    flank = np.minimum(_length(x, y - 1), _length(x - half, y - half))
    inside = np.where(x > y, flank, -flank)
    return np.where(x + y > 1, lobe, inside) * 1.7


def _crescent(x: Plane, y: Plane) -> Plane:
    bite = _length(x - 0.5, y) - 0.75
    return np.maximum(_length(x, y) - 1, -bite)


def _ring(x: Plane, y: Plane) -> Plane:
    return np.abs(_length(x, y) - 0.68) - 0.28


def _cross(x: Plane, y: Plane) -> Plane:
    return np.minimum(_box(x, y, 0.33, 0.95), _box(x, y, 0.95, 0.33))


def _arrow(x: Plane, y: Plane) -> Plane:
    sides = np.abs(x) * 0.75 + (y - 1) * 0.66
    head = np.maximum(sides, -y)
    return np.minimum(head, _box(x, y + 0.225, 0.32, 0.725))


def _drop(x: Plane, y: Plane) -> Plane:
    belly = _length(x, y + 0.35) - 0.65
    sides = np.abs(x) * 0.876457 + (y - 1) * 0.481481
    return np.minimum(belly, np.maximum(sides, -y - 0.037))


SHAPES: Final[dict[str, Callable[[Plane, Plane], Plane]]] = {
    "disc": _disc,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "heart": _heart,
    "crescent": _crescent,
    "ring": _ring,
    "cross": _cross,
    "arrow": _arrow,
    "drop": _drop,
}


# Textures: the share of the second colour, 0..1, at every pixel. Edges are one pixel soft.


def _edge(depth: Plane) -> Plane:
    """How much of a pixel lies inside an edge that is ``depth`` pixels away."""
    return np.clip(depth + 0.5, 0, 1)


def _wave(turns: Plane) -> Plane:
    """A triangle wave of period 1 between -1/4 and 1/4: the distance to the next zero, signed."""
    return np.abs(turns - np.floor(turns) - 0.5) - 0.25


def _plain(on: Canvas) -> Plane:
    return np.zeros_like(on.x)


def _striped(on: Canvas) -> Plane:
    return _edge(_wave(on.v) * on.period)


def _zigzag(on: Canvas) -> Plane:
    return _edge(_wave(on.v + 2 * _wave(on.u * 0.6)) * on.period * 0.7)


def _checked(on: Canvas) -> Plane:
    across, along = _edge(_wave(on.u) * on.period), _edge(_wave(on.v) * on.period)
    return across + along - 2 * across * along


def _dotted(on: Canvas) -> Plane:
    middle = 0.5
    apart = _length(on.u - np.floor(on.u) - middle, on.v - np.floor(on.v) - middle)
    return _edge((0.32 - apart) * on.period)


def _netted(on: Canvas) -> Plane:
    lines = np.maximum(_wave(on.u), _wave(on.v)) - 0.12
    return _edge(lines * on.period)


def _rippled(on: Canvas) -> Plane:
    return _edge(_wave(_length(on.x, on.y) / on.period) * on.period)


def _shaded(on: Canvas) -> Plane:
    return np.clip(on.y / on.radius * 0.6 + 0.5, 0, 1)


def _halved(on: Canvas) -> Plane:
    return _edge(on.x)


def _outlined(on: Canvas) -> Plane:
    return _edge(on.period * 0.35 - on.depth)


TEXTURES: Final[dict[str, Callable[[Canvas], Plane]]] = {
    "plain": _plain,
    "striped": _striped,
    "zigzag": _zigzag,
    "checked": _checked,
    "dotted": _dotted,
    "netted": _netted,
    "rippled": _rippled,
    "shaded": _shaded,
    "halved": _halved,
    "outlined": _outlined,
}
