"""Things on a table, by ray marching: signed distances and colours in, float RGB [N, N, 3] out.

After J. C. Hart, "Sphere tracing" (1996): along every ray one steps as far as the nearest surface
is away. One lamp with soft shadows, the sky's light from above, and a highlight.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from gallery.noise import Plane, fbm, value

Distance = Callable[[Plane], Plane]
Colour = Callable[[Plane], Plane]

STEPS, FAR, TOUCH = 110, 12.0, 0.002


@dataclass(frozen=True)
class Part:
    """A surface: its signed distance, its colour, how it shines and how rough it is."""

    distance: Distance
    colour: Colour
    shine: float = 0.3
    bumps: float = 0.0


@dataclass(frozen=True)
class View:
    """Where the camera stands, what it looks at, and how far it is zoomed in."""

    camera: tuple[float, float, float] = (0.0, 1.6, 5.2)
    target: tuple[float, float, float] = (0.0, 0.72, 0.0)
    zoom: float = 2.5


LAMP = np.array([-0.55, 0.75, 0.5], np.float32) / np.sqrt(0.55**2 + 0.75**2 + 0.5**2)


def render(
    parts: tuple[Part, ...], size: int, ground: Colour, horizon: Colour, view: View
) -> Plane:
    """Render ``parts`` on the plane y = 0, whose ``ground`` fades into the ``horizon``."""
    rays, origin = _rays(size, view)
    floor = Part(lambda p: p[:, 1], ground, shine=0.0)
    everything = (*parts, floor)
    depth = _march(everything, origin, rays)
    points = origin + rays * depth[:, None]
    distances = np.stack([part.distance(points) for part in everything])
    nearest = distances.argmin(axis=0)
    image = np.empty_like(points)
    for index, part in enumerate(everything):
        mine = nearest == index
        if mine.any():
            image[mine] = _shade(part, everything, points[mine], rays[mine], part is floor)
    fade = np.clip((depth - 5.6) / 4.4, 0, 1)[:, None]
    image = image * (1 - fade) + horizon(rays) * fade
    return image.reshape(size, size, 3)


def _rays(size: int, view: View) -> tuple[Plane, Plane]:
    camera, target = np.array(view.camera, np.float32), np.array(view.target, np.float32)
    ahead = (target - camera) / np.linalg.norm(target - camera)
    right = np.cross(ahead, [0, 1, 0])
    right /= np.linalg.norm(right)
    up = np.cross(right, ahead)
    grid = (np.arange(size, dtype=np.float32) + 0.5) / size * 2 - 1
    x, y = np.meshgrid(grid, -grid)
    rays = ahead * view.zoom + x[..., None] * right + y[..., None] * up
    rays = rays.reshape(-1, 3)
    rays /= np.linalg.norm(rays, axis=1, keepdims=True)
    return rays.astype(np.float32), camera


def _nearest(parts: tuple[Part, ...], points: Plane) -> Plane:
    nearest = parts[0].distance(points)
    for part in parts[1:]:
        nearest = np.minimum(nearest, part.distance(points))
    return nearest


def _march(parts: tuple[Part, ...], origin: Plane, rays: Plane) -> Plane:
    depth = np.zeros(len(rays), np.float32)
    going = np.arange(len(rays))
    for _ in range(STEPS):
        step = _nearest(parts, origin + rays[going] * depth[going, None])
        depth[going] += step * 0.85
        going = going[(step > TOUCH) & (depth[going] < FAR)]
        if not len(going):
            break
    return np.minimum(depth, FAR)


def _shade(
    part: Part, parts: tuple[Part, ...], points: Plane, rays: Plane, is_floor: bool
) -> Plane:
    normal = _normals(part, points)
    facing = np.maximum(normal @ LAMP, 0)
    shadow = _shadow(parts, points + normal * 0.02)
    sky = 0.5 + 0.5 * normal[:, 1]
    hidden = _occlusion(parts, points, normal)
    colour = part.colour(points)
    light = (0.92 * facing * shadow)[:, None] * np.array([1.0, 0.96, 0.9])
    light = light + (0.5 * sky * hidden)[:, None] * np.array([0.9, 0.96, 1.05])
    light = light + (0.1 * hidden * (1 - sky))[:, None]
    half = LAMP - rays
    half /= np.linalg.norm(half, axis=1, keepdims=True)
    shine = part.shine * shadow * np.maximum((normal * half).sum(axis=1), 0) ** 60
    rim = part.shine * 0.35 * (1 - np.maximum(-(normal * rays).sum(axis=1), 0)) ** 4 * hidden
    return colour * light * (0.86 if is_floor else 1) + (shine + rim)[:, None]


def _normals(part: Part, points: Plane) -> Plane:
    normal = np.empty_like(points)
    for axis in range(3):
        step = np.zeros(3, np.float32)
        step[axis] = 0.004
        normal[:, axis] = part.distance(points + step) - part.distance(points - step)
    if part.bumps:
        x, y, z = points.T * 22
        normal[:, 0] += part.bumps * (value(x + z, y, 1) - 0.5)
        normal[:, 1] += part.bumps * (value(y + z, x, 2) - 0.5)
        normal[:, 2] += part.bumps * (value(z - x, y, 3) - 0.5)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-9
    return normal


def _shadow(parts: tuple[Part, ...], points: Plane) -> Plane:
    """How much of a lamp of some width is seen: I. Quilez' approximation by the closest miss."""
    light = np.ones(len(points), np.float32)
    depth = np.full(len(points), 0.03, np.float32)
    for _ in range(28):
        clear = _nearest(parts, points + LAMP * depth[:, None])
        light = np.minimum(light, 7 * clear / depth)
        depth += np.clip(clear, 0.03, 0.35)
    light = np.clip(light, 0, 1)
    return light * light * (3 - 2 * light)


def _occlusion(parts: tuple[Part, ...], points: Plane, normal: Plane) -> Plane:
    closed = np.zeros(len(points), np.float32)
    for step in (0.05, 0.15, 0.3, 0.5):
        closed += (step - _nearest(parts, points + normal * step)) * 0.5
    return np.clip(1 - closed, 0.1, 1)


# Shapes. p is [N, 3]: x to the right, y upwards, z towards the camera.


def _ball(p: Plane, centre: tuple[float, float, float], radius: float) -> Plane:
    return np.linalg.norm(p - np.array(centre, np.float32), axis=1) - radius


def _rod(p: Plane, start: tuple[float, ...], end: tuple[float, ...], radius: float) -> Plane:
    a, b = np.array(start, np.float32), np.array(end, np.float32)
    along = np.clip(((p - a) @ (b - a)) / ((b - a) @ (b - a)), 0, 1)
    return np.linalg.norm(p - a - along[:, None] * (b - a), axis=1) - radius


def _blend(one: Plane, other: Plane, width: float) -> Plane:
    """The smooth minimum of two distances."""
    h = np.clip(0.5 + 0.5 * (other - one) / width, 0, 1)
    return other * (1 - h) + one * h - width * h * (1 - h)


def _radial(p: Plane) -> Plane:
    return np.sqrt(p[:, 0] ** 2 + p[:, 2] ** 2)


def _mix(first: tuple[float, ...], second: tuple[float, ...], share: Plane) -> Plane:
    share = np.clip(share, 0, 1)[:, None]
    return np.array(first) * (1 - share) + np.array(second) * share


def _plain(*colour: float) -> Colour:
    return lambda p: np.tile(np.array(colour, np.float32), (len(p), 1))


PAPER = _plain(0.93, 0.93, 0.92)


def _stem(*points: tuple[float, float, float], radius: float = 0.035) -> Part:
    pairs = tuple(itertools.pairwise(points))

    def distance(p: Plane) -> Plane:
        return np.min([_rod(p, a, b, radius) for a, b in pairs], axis=0)

    return Part(distance, _plain(0.3, 0.2, 0.1), shine=0.05)


def apple(size: int) -> Plane:
    """A red apple with a leaf."""

    def body(p: Plane) -> Plane:
        ring = _radial(p) - 0.27
        y = (p[:, 1] - 0.68) / 1.02
        return (np.sqrt(ring**2 + (y * 0.9) ** 2) - 0.56 - 0.07 * y) * 0.8

    def skin(p: Plane) -> Plane:
        turn = np.arctan2(p[:, 0], p[:, 2])
        streaks = fbm(turn * 7, p[:, 1] * 1.1, 4, 3)
        blush = np.clip((p[:, 1] - 0.75) * 0.55 + streaks * 1.3 - 0.62 + 0.4 * p[:, 0], 0, 1)
        colour = _mix((0.62, 0.025, 0.03), (0.86, 0.5, 0.1), blush)
        speck = value(turn * 26, p[:, 1] * 26, 9) > 0.93
        return np.where(speck[:, None], colour * 0.7 + 0.2, colour)

    def leaf(p: Plane) -> Plane:
        q = (p - np.array([0.3, 1.43, 0.05])) @ _turn(0.5)
        return (np.linalg.norm(q / np.array([0.33, 0.03, 0.15]), axis=1) - 1) * 0.03

    parts = (
        Part(body, skin, shine=0.75),
        _stem((0, 1.1, 0), (0.03, 1.35, 0), (0.12, 1.55, 0)),
        Part(leaf, _plain(0.16, 0.42, 0.08), shine=0.2),
    )
    return render(parts, size, PAPER, PAPER, View(zoom=3.3))


def _turn(angle: float) -> Plane:
    c, s = np.cos(angle), np.sin(angle)
    return np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]], np.float32)


def pear(size: int) -> Plane:
    """A green pear."""

    def body(p: Plane) -> Plane:
        q = p @ _turn(-0.08)
        return _blend(_ball(q, (0, 0.7, 0), 0.68), _ball(q, (0, 1.5, 0), 0.33), 0.55)

    def skin(p: Plane) -> Plane:
        patches = fbm(p[:, 0] * 2.4 + p[:, 2], p[:, 1] * 2.4, 4, 8)
        colour = _mix((0.42, 0.52, 0.07), (0.8, 0.72, 0.16), patches * 1.5 - 0.3 + 0.3 * p[:, 0])
        speck = value(p[:, 0] * 30 + p[:, 2] * 9, p[:, 1] * 30, 4) > 0.9
        return np.where(speck[:, None], colour * 0.7, colour)

    stem = _stem((-0.12, 1.75, 0), (-0.12, 2.02, 0), (0.0, 2.18, 0), radius=0.04)
    view = View(target=(0.0, 1.05, 0.0), camera=(0.0, 1.7, 6.2), zoom=3.4)
    return render((Part(body, skin, shine=0.4), stem), size, PAPER, PAPER, view)


def mushroom(size: int) -> Plane:
    """A fly agaric on the forest's floor."""
    rng = np.random.default_rng(4)
    angles = np.linspace(0, 2 * np.pi * 8.5, 46)
    heights = np.linspace(0.98, 0.06, 46)
    dots = np.stack([np.sin(angles), np.cos(angles)], axis=1) + rng.normal(0, 0.12, (46, 2))

    def cap(p: Plane) -> Plane:
        q = (p - np.array([0, 1.12, 0])) / np.array([1.05, 0.72, 1.05])
        dome = (np.linalg.norm(q, axis=1) - 1) * 0.66
        return np.maximum(dome, 1.12 - p[:, 1] - 0.10 * (1 - _radial(p)))

    def red(p: Plane) -> Plane:
        q = (p - np.array([0, 1.12, 0])) / np.array([1.05, 0.72, 1.05])
        colour = _mix((0.72, 0.03, 0.02), (0.85, 0.16, 0.03), fbm(p[:, 0] * 3, p[:, 2] * 3, 3))
        under = p[:, 1] < 1.135 - 0.1 * (1 - _radial(p))
        white = np.zeros(len(p), bool)
        for (x, z), y in zip(dots, heights, strict=True):
            wide = np.sqrt(max(1 - y * y, 0.01))
            place = np.array([x * wide, y, z * wide])
            place /= np.linalg.norm(place)
            white |= np.linalg.norm(q - place, axis=1) < 0.075 + 0.035 * (x > 0)
        colour = np.where(white[:, None], np.array([0.95, 0.92, 0.85]), colour)
        return np.where(under[:, None], np.array([0.85, 0.8, 0.7]), colour)

    def stem(p: Plane) -> Plane:
        bulb = _ball(p, (0, 0.16, 0), 0.3)
        return _blend(_rod(p, (0, 0, 0), (0, 1.2, 0), 0.2), bulb, 0.25)

    def ring(p: Plane) -> Plane:
        slope = np.abs(p[:, 1] - 0.86 + 0.35 * (_radial(p) - 0.2)) - 0.02
        return np.maximum(slope, _radial(p) - 0.36) * 0.8

    def ground(p: Plane) -> Plane:
        moss = fbm(p[:, 0] * 5, p[:, 2] * 5, 5, 11)
        return _mix((0.07, 0.11, 0.03), (0.34, 0.4, 0.12), moss * 1.7 - 0.35)

    parts = (
        Part(cap, red, shine=0.5),
        Part(stem, _plain(0.9, 0.87, 0.78), shine=0.05, bumps=0.002),
        Part(ring, _plain(0.92, 0.88, 0.78), shine=0.0),
    )
    view = View(camera=(0.0, 1.25, 5.4), target=(0.0, 0.92, 0.0), zoom=2.9)

    def woods(rays: Plane) -> Plane:
        light = fbm(rays[:, 0] * 5, rays[:, 1] * 3.5, 3, 19)
        return _mix((0.05, 0.1, 0.05), (0.5, 0.62, 0.24), light * 2.2 - 0.75)

    return render(parts, size, ground, woods, view)
