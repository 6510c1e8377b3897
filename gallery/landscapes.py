"""Out of doors, painted pixel by pixel: a side in pixels in, float RGB [N, N, 3], 0..1, out."""

from __future__ import annotations

import numpy as np

from gallery.noise import Plane, fbm, value


def _frame(size: int) -> tuple[Plane, Plane]:
    """X from -1 to 1 to the right, y from 0 at the bottom to 1 at the top."""
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size
    x, y = np.meshgrid(grid * 2 - 1, 1 - grid)
    return x, y


def _mix(first: Plane, second: Plane, share: Plane) -> Plane:
    share = np.clip(share, 0, 1)[..., None]
    return np.asarray(first) * (1 - share) + np.asarray(second) * share


def _edge(depth: Plane, softness: float) -> Plane:
    """0 outside, 1 inside, of something that is ``depth`` inside its outline."""
    return np.clip(depth / softness + 0.5, 0, 1)


def sea(size: int) -> Plane:
    """The sun sets into the sea."""
    x, y = _frame(size)
    horizon = 0.46
    up = np.clip((y - horizon) / (1 - horizon), 0, 1)
    sun = np.sqrt((x - 0.12) ** 2 + ((y - horizon - 0.1) * 2) ** 2)
    sky = _mix([0.98, 0.62, 0.28], [0.3, 0.42, 0.66], up**0.8 * 1.1)
    sky = sky + np.exp(-sun * 3.2)[..., None] * np.array([0.7, 0.36, 0.1])
    stripes = fbm(x * 1.6, y * 9, 5, 2)
    sky = _mix(sky, [0.62, 0.36, 0.4], (stripes - 0.52) * 3 * (1 - up * 0.5))
    sky = _mix(sky, [1.0, 0.95, 0.72], _edge(0.12 - sun, 0.02))
    down = np.clip((horizon - y) / horizon, 1e-3, 1)
    far = 0.06 / down
    waves = fbm(x * far * 24 + 3, far * 70, 4, 6)
    glint = np.exp(-(((x - 0.12) / (0.1 + 0.35 * down)) ** 2))
    water = _mix([0.72, 0.46, 0.34], [0.04, 0.12, 0.22], down**0.45)
    water = water * (0.7 + 0.6 * waves)[..., None]
    water = _mix(water, [1.0, 0.78, 0.42], glint * np.clip((waves - 0.42) * 4, 0, 1) * 0.95)
    return np.where((y > horizon)[..., None], sky, water)


def mountain(size: int) -> Plane:
    """Snow on the peaks, and a lake before them."""
    x, y = _frame(size)
    image = _mix([0.78, 0.88, 0.97], [0.22, 0.45, 0.78], (y - 0.3) * 1.5)
    clouds = fbm(x * 1.5 + 4, y * 5, 5, 21)
    image = _mix(image, [1, 1, 1], (clouds - 0.55) * 4)
    shore = 0.2

    def range_of(at: Plane, seed: int, height: float, rough: float) -> Plane:
        ridge = 1 - np.abs(2 * fbm(at * 1.15 + seed, np.zeros_like(at), 6, seed) - 1)
        return shore + height * ridge**1.6 * (1 - rough * np.abs(at))

    for seed, height, snow_line, shade in ((33, 0.42, 0.42, 0.75), (12, 0.74, 0.5, 1.0)):
        top = range_of(x, seed, height, 0.42)
        inside = top - y
        # Light from the left, on ridges that run down from the summit, bent by noise.
        texture = fbm(x * 7 + seed, y * 7, 6, seed + 3)
        bent = x * 3.4 + 1.5 * (fbm(x * 3, y * 4, 5, seed + 5) - 0.5) + 0.9 * x * inside
        lit = fbm(bent + 0.1, inside * 1.6 + 0.04, 5, seed) - fbm(bent, inside * 1.6, 5, seed)
        grain = fbm(x * 9 + 0.1, y * 9 + 0.1, 5, seed + 3) - fbm(x * 9, y * 9, 5, seed + 3)
        light = np.clip(0.62 + 4.2 * lit + 1.6 * grain, 0.16, 1.1)
        rock = _mix([0.2, 0.21, 0.26], [0.44, 0.4, 0.37], texture) * light[..., None]
        snow = np.array([0.97, 0.98, 1.0]) * (0.45 + 0.55 * light)[..., None]
        cover = (y - snow_line + 0.35 * (texture - 0.5) - 0.05 * inside) * 14
        body = _mix(rock, snow, cover) * shade + (1 - shade) * np.array([0.6, 0.72, 0.86])
        image = _mix(image, body, _edge(inside, 3 / size))
    trees = shore + 0.035 + 0.035 * value(x * 42, x * 0, 5) * fbm(x * 3, x * 0, 3, 9) * 2
    image = _mix(image, [0.05, 0.12, 0.08], _edge(trees - y, 2 / size))
    mirrored = np.clip(((2 * shore - y) * size).astype(int), 0, size - 1)
    ripple = ((value(x * 6, y * 90, 7) - 0.5) * 0.02 * size).astype(int)
    columns = np.clip(np.arange(size)[None, :] + ripple, 0, size - 1)
    lake = image[size - 1 - mirrored, columns] * 0.72 + np.array([0.02, 0.06, 0.1])
    return np.where((y < shore)[..., None], lake, image)


def cloud(size: int) -> Plane:
    """Cumulus in a summer sky."""
    x, y = _frame(size)
    image = _mix([0.55, 0.76, 0.95], [0.1, 0.33, 0.72], y)
    rng = np.random.default_rng(8)
    for layer in range(60):
        place = layer / 59
        cx, spread = rng.normal(0, 0.36), 1 - place * 0.35
        cy = 0.36 + 0.36 * rng.random() * np.exp(-((cx / 0.5) ** 2)) * (1.15 - place)
        radius = rng.uniform(0.1, 0.2) * spread
        warp = (fbm(x * 6 + layer, y * 12, 5, layer) - 0.5) * 0.24
        away = np.sqrt((x - cx) ** 2 + ((y - cy) * 1.9) ** 2) + warp
        inside = _edge(radius - away, 0.07)
        height = np.clip((y - cy) / radius * 1.6 + 0.6 - warp * 2, 0, 1)
        body = _mix([0.66, 0.72, 0.8], [1.0, 1.0, 0.99], height)
        base = _edge(y - 0.34 + warp * 0.4, 0.05)
        image = _mix(image, body, inside * base * 0.85)
    return image


def road(size: int) -> Plane:
    """A road to the horizon, between fields."""
    x, y = _frame(size)
    horizon = 0.5
    sky = _mix([0.82, 0.9, 0.97], [0.28, 0.52, 0.86], (y - horizon) * 2)
    sky = _mix(sky, [1, 1, 1], (fbm(x * 1.6, y * 5, 5, 14) - 0.5) * 4)
    hills = horizon + 0.03 + 0.09 * fbm(x * 1.3 + 5, x * 0, 4, 2)
    sky = _mix(sky, [0.36, 0.46, 0.5], _edge(hills - y, 2 / size))
    down = np.clip(horizon - y, 2e-3, 1)
    far = 0.12 / down
    grass = fbm(x * far * 9, far * 9, 5, 3)
    ground = _mix([0.22, 0.36, 0.1], [0.62, 0.6, 0.24], grass * 1.5 - 0.25)
    across = x / (down * 2)
    asphalt = (
        np.array([0.3, 0.3, 0.32]) * (0.86 + 0.28 * value(x * far * 60, far * 60, 4))[..., None]
    )
    soft = 3 / size / down
    ground = _mix(ground, [0.58, 0.54, 0.42], _edge(1.12 - np.abs(across), soft))
    ground = _mix(ground, asphalt, _edge(0.98 - np.abs(across), soft))
    dashes = np.mod(far * 2.2, 1) < 0.55
    ground = _mix(ground, [0.95, 0.93, 0.82], _edge(0.035 - np.abs(across), soft) * dashes)
    ground = _mix(ground, [0.93, 0.93, 0.9], _edge(0.03 - np.abs(np.abs(across) - 0.9), soft))
    haze = np.exp(-down * 14)
    ground = _mix(ground, [0.7, 0.78, 0.82], haze * 0.8)
    return np.where((y > horizon)[..., None], sky, ground)


def sunflower(size: int) -> Plane:
    """A sunflower against the sky; its seeds follow H. Vogel's spiral (1979)."""
    x, y = _frame(size)
    y = y * 2 - 1
    image = _mix([0.72, 0.86, 0.96], [0.26, 0.52, 0.86], (y + 1) / 2)
    leafy = fbm(x * 3, y * 3, 5, 6)
    image = _mix(image, [0.16, 0.32, 0.1], _edge(-0.52 - y + 0.5 * (leafy - 0.5), 0.08))
    stem = np.abs(x + 0.05 * (y + 0.6)) - 0.055
    image = _mix(image, [0.28, 0.46, 0.14], _edge(-stem, 0.02) * (y < 0))
    y = y - 0.08
    r, turn = np.sqrt(x * x + y * y), np.arctan2(y, x)
    for count, offset, length, dark in (
        (17, 0.0, 0.86, 0.72),
        (19, 0.13, 0.8, 0.88),
        (21, 0.3, 0.72, 1.0),
    ):
        part = turn / (2 * np.pi) * count + offset
        middle = np.abs(part - np.round(part)) * 2
        wobble = 0.09 * (value(np.round(part) * 7.7, np.round(part) * 0 + count, 4) - 0.5)
        along = np.clip((r - 0.28) / (length + wobble - 0.28), 0, 1)
        wide = 0.98 * np.sqrt(np.clip(1 - (along * 1.04) ** 3, 0, 1)) * (0.55 + 0.45 * along)
        petal = _edge(wide - middle, 0.1) * (r < length + wobble)
        veins = 0.86 + 0.14 * np.cos(middle * 14)
        body = _mix([0.92, 0.52, 0.02], [1.0, 0.82, 0.1], along) * (dark * veins)[..., None]
        body = body * (1 - 0.35 * np.clip(middle / np.maximum(wide, 0.05), 0, 1) ** 4)[..., None]
        image = _mix(image, body, petal)
    disc = _edge(0.36 - r, 0.02)
    brown = _mix([0.16, 0.08, 0.03], [0.42, 0.22, 0.06], np.clip((r - 0.12) / 0.24, 0, 1))
    image = _mix(image, brown, disc)
    for seed in range(1, 330):
        radius, angle = 0.0194 * np.sqrt(seed), seed * 2.399963
        place = np.sqrt((x - radius * np.cos(angle)) ** 2 + (y - radius * np.sin(angle)) ** 2)
        tone = (
            [0.5, 0.36, 0.1] if seed < 90 else [0.1, 0.05, 0.02] if seed % 3 else [0.66, 0.4, 0.1]
        )
        image = _mix(image, tone, _edge(0.0105 - place, 0.008) * 0.9)
    return image


def palm_tree(size: int) -> Plane:
    """A palm on a beach."""
    x, y = _frame(size)
    image = _mix([0.86, 0.93, 0.96], [0.25, 0.58, 0.88], (y - 0.25) * 1.4)
    image = _mix(image, [1, 1, 1], (fbm(x * 1.4 + 2, y * 5, 5, 30) - 0.55) * 4)
    sea_water = _mix([0.1, 0.55, 0.62], [0.04, 0.3, 0.5], y * 4)
    sea_water = sea_water * (0.85 + 0.3 * fbm(x * 6, y * 60, 3, 2))[..., None]
    image = _mix(image, sea_water, _edge(0.27 - y, 2 / size))
    sand_line = 0.14 + 0.04 * fbm(x * 1.2, x * 0, 3, 7)
    sand = _mix([0.8, 0.7, 0.5], [0.96, 0.89, 0.72], fbm(x * 9, y * 22, 4, 5))
    image = _mix(image, sand, _edge(sand_line - y, 6 / size))
    bend = 0.22 * np.clip(y - 0.12, 0, 1) ** 1.5 - 0.18
    trunk = np.abs(x - bend) - (0.045 - 0.02 * y)
    bark = _mix([0.3, 0.21, 0.13], [0.6, 0.47, 0.33], np.mod(y * 34, 1) * 0.6 + (bend - x) * 6)
    image = _mix(image, bark, _edge(-trunk, 3 / size) * (y > 0.11) * (y < 0.72))
    top_x, top_y = 0.22 * 0.6**1.5 - 0.18, 0.72
    for number, (angle, length) in enumerate(
        (
            (2.9, 0.62),
            (0.25, 0.62),
            (2.35, 0.6),
            (0.8, 0.58),
            (1.55, 0.42),
            (3.2, 0.5),
            (-0.05, 0.52),
            (1.2, 0.5),
            (1.95, 0.52),
        )
    ):
        tip_x, tip_y = np.cos(angle) * length, np.sin(angle) * length * 0.4
        s = np.clip(
            ((x - top_x) * tip_x + (y - top_y) * 2 * tip_y * 2) / (tip_x**2 + (2 * tip_y) ** 2),
            0,
            1,
        )
        for _ in range(6):  # the nearest point of the drooping rib, by a few fixed-point steps
            px, py = top_x + tip_x * s, top_y + tip_y * s + 0.1 * s - 0.34 * s * s
            s = np.clip(
                s
                + 0.7
                * ((x - px) * tip_x + (y - py) * 4 * (tip_y + 0.1 - 0.68 * s))
                / (tip_x**2 + 0.3),
                0,
                1,
            )
        px, py = top_x + tip_x * s, top_y + tip_y * s + 0.1 * s - 0.34 * s * s
        hang = np.sqrt((x - px) ** 2 + ((y - py) * 2) ** 2)
        comb = 0.55 + 0.45 * (np.mod(s * 26 + (py - y) * 22, 1) < 0.66)
        wide = 0.15 * np.sqrt(np.clip(s * 1.8, 0, 1)) * np.clip(1.15 - s, 0, 1) * comb + 0.006
        wide = np.where(y > py, wide * 0.55, wide)
        green = _mix(
            [0.07, 0.22, 0.05], [0.42, 0.58, 0.16], 0.5 + (y - py) * 9 + 0.1 * (number % 3)
        )
        image = _mix(image, green, _edge(wide - hang, 5 / size) * (s > 0.001))
    for dx, dy in ((-0.03, -0.035), (0.035, -0.03), (0.0, -0.055)):
        nut = 0.036 - np.sqrt((x - top_x - dx) ** 2 + ((y - top_y - dy) * 2) ** 2)
        image = _mix(image, [0.36, 0.24, 0.12], _edge(nut, 4 / size))
    return image


def skyscraper(size: int) -> Plane:
    """Towers of glass at dusk."""
    x, y = _frame(size)
    image = _mix([0.98, 0.72, 0.5], [0.25, 0.36, 0.62], y * 1.25)
    image = _mix(image, [0.9, 0.62, 0.56], (fbm(x * 1.2, y * 6, 5, 4) - 0.55) * 3)
    towers = (  # left, right, top, haze, seed
        (-1.0, -0.72, 0.42, 0.55, 1),
        (-0.66, -0.4, 0.55, 0.5, 2),
        (0.5, 0.72, 0.6, 0.5, 3),
        (0.78, 1.0, 0.4, 0.55, 4),
        (-0.95, -0.55, 0.32, 0.2, 5),
        (0.4, 0.95, 0.36, 0.2, 6),
        (-0.24, 0.26, 0.9, 0.0, 7),
    )
    for left, right, top, haze, seed in towers:
        across = (x - left) / (right - left)
        inside = np.minimum(np.minimum(x - left, right - x), (top - y) * 2)
        floors, bays = int(top * 64), int((right - left) * 34)
        row, column = np.floor(y / top * floors), np.floor(across * bays)
        window = (np.mod(y / top * floors, 1) > 0.3) & (np.mod(across * bays, 1) > 0.22)
        lit = value(column * 7.3 + 0.5, row * 5.1 + 0.5, seed) > 0.62
        wall = _mix([0.36, 0.42, 0.52], [0.12, 0.15, 0.22], np.clip(across * 1.4 - 0.1, 0, 1))
        glass = _mix(
            [0.5, 0.62, 0.76], [0.2, 0.28, 0.42], np.clip(across * 1.2 + 0.2 * (1 - y), 0, 1)
        )
        body: Plane = np.where(window[..., None], glass, wall)
        body = np.where((window & lit)[..., None], [1.0, 0.86, 0.55], body)
        body = body * (1 - haze) + haze * np.array([0.74, 0.6, 0.58])
        image = _mix(image, body, _edge(inside, 3 / size))
    mast = _edge(0.008 - np.abs(x - 0.01), 3 / size) * (y > 0.88) * (y < 0.985)
    return _mix(image, [0.2, 0.2, 0.26], mast)
