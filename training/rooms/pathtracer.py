"""A small path tracer on Dr.Jit with Mitsuba's ray intersection. Importing this module starts both.

It knows flat tables only (`Tables`), no objects and no materials with code of their own, so that rooms share a few
compiled kernels, which Dr.Jit keeps on disk: with Mitsuba's own integrators each new mixture of materials is compiled
anew.

    diffuse      direct light by sampling one of the lights, indirect light by cosine-weighted bounces
    specular     GGX, sampled by visible normals (Heitz, "Sampling the GGX Distribution of Visible Normals", JCGT 2018)
                 with Schlick's Fresnel term; only before the first diffuse bounce, afterwards everything is diffuse
    emission     seen by the camera, in mirrors and in gloss; it does not light the room. What emits much (a window's
                 pane, a lamp's shade) reflects nothing; what emits little (a curtain) is a surface that shines as well
    thin         what the light of the lights and of other surfaces passes: panes, shades, curtains (`packing.is_thin`)
    lights       light the room and are not seen
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import drjit as dr
import mitsuba as mi
import numpy as np
from numpy.typing import NDArray

from training.rooms.packing import DRAWS, FACE, GLOWING, LIGHT, MATERIAL

mi.set_variant("llvm_ad_rgb")
dr.set_thread_count(1)  # worker processes are the parallelism

Floats = NDArray[np.floating[Any]]
PCG32: Any = mi.PCG32  # the stubs know it as an object only

INDIRECT_LIMIT = 4.0
"""Of the radiance that one path brings after a diffuse bounce; brighter paths are fireflies that few samples cannot
average out. In the unit of `Light.radiance`."""
DIRECT_LIMIT = 30.0
MIRROR = 0.9


@dataclass  # not frozen: Dr.Jit sets the members that a loop reads
class Tables:
    """A scene on the device.

    Attributes:
        solid, thin: Ray intersection with the faces that block light and with those that let it through.
        solid_count: Faces of `solid`; face ids of `thin` begin there.
        faces: [F, FACE]: corner normals (9), geometric normal (3), uv of the corners (6), colour (3), material (1).
        materials: [M, MATERIAL]: texture's first texel, width, height (0 = none), roughness, metallic, specular,
            emission (3), mirror.
        texels: uint32, 8 bits each of red, green, blue.
        lights: [L, LIGHT]: centre (3), normal (3; 0 for a ball), half edges u and v (3 each; a ball's radius is in u),
            radiance (3), probability.
        light_draw: uint32 [DRAWS], the light of each of equal chances.
    """

    solid: Any
    thin: Any
    solid_count: Any
    faces: Any
    materials: Any
    texels: Any
    lights: Any
    light_draw: Any


def intersector(vertices: Floats, faces: NDArray[np.integer[Any]]) -> Any:
    """Mitsuba's scene of one mesh; vertices [V, 3], faces [F, 3] with F > 0."""
    mesh = mi.Mesh("faces", len(vertices), len(faces))
    parameters = mi.traverse(mesh)
    parameters["vertex_positions"] = np.ascontiguousarray(vertices, np.float32).ravel()
    parameters["faces"] = np.ascontiguousarray(faces, np.uint32).ravel()
    parameters.update()
    return mi.load_dict({"type": "scene", "mesh": mesh})


def upload(
    solid: Any,
    thin: Any,
    solid_count: int,
    faces: Floats,
    materials: Floats,
    texels: NDArray[np.uint32],
    lights: Floats,
    light_draw: NDArray[np.uint32],
) -> Tables:
    """Copies the tables of `packing.pack` to the device; counts become variables, since a literal is compiled in."""
    return Tables(
        solid,
        thin,
        dr.opaque(mi.UInt32, solid_count),
        mi.Float(np.ascontiguousarray(faces, np.float32).ravel()),
        mi.Float(np.ascontiguousarray(materials, np.float32).ravel()),
        mi.UInt32(texels),
        mi.Float(np.ascontiguousarray(lights, np.float32).ravel()),
        mi.UInt32(light_draw),
    )


def first_hits(tables: Tables, origin: Floats, direction: Floats) -> tuple[Floats, NDArray[np.int64]]:
    """What rays hit first: distance [N] in lengths of the direction (inf: nothing) and face [N], -1 for nothing.

    Args:
        origin, direction: [3, N] float32.
    """
    ray = mi.Ray3f(mi.Point3f(origin), mi.Vector3f(direction))
    solid = tables.solid.ray_intersect_preliminary(ray, coherent=True)
    thin = tables.thin.ray_intersect_preliminary(ray, coherent=True)
    nearer = thin.t < solid.t
    face = dr.select(nearer, thin.prim_index + tables.solid_count, solid.prim_index)
    t = dr.minimum(solid.t, thin.t)
    dr.eval(t, face)
    distance = np.array(t)
    return distance, np.where(np.isfinite(distance), np.array(face).astype(np.int64), -1)


def _row(table: Any, index: Any, width: int, active: Any) -> list[Any]:
    """The numbers of one row; rows are fetched four numbers at a time."""
    numbers: list[Any] = []
    for k in range(width // 4):
        numbers += list(dr.gather(mi.Vector4f, table, index * (width // 4) + k, active))
    return numbers


def _linear(byte: Any) -> Any:
    """Linear reflectance of an sRGB byte, by a cubic within 0.003 (the exact curve needs a logarithm)."""
    c = mi.Float(byte) * (1 / 255)
    return c * (c * (c * 0.305306011 + 0.682171111) + 0.012522878)


def _texture(tables: Tables, first: Any, width: Any, height: Any, u: Any, v: Any, jitter: Any, active: Any) -> Any:
    """Linear colour at (u, v): one texel drawn by the weights of bilinear interpolation."""
    w, h = mi.Float(width), mi.Float(height)
    x = (u - dr.floor(u)) * w + jitter.x - 0.5
    y = (1 - (v - dr.floor(v))) * h + jitter.y - 0.5
    x = dr.select(x < 0, x + w, x)
    y = dr.select(y < 0, y + h, y)
    i = dr.minimum(mi.UInt32(x), width - 1)
    j = dr.minimum(mi.UInt32(y), height - 1)
    packed = dr.gather(mi.UInt32, tables.texels, first + j * width + i, active)
    return mi.Color3f(_linear(packed & 255), _linear((packed >> 8) & 255), _linear((packed >> 16) & 255))


def _visible_normal(toward: Any, alpha: Any, u: Any) -> Any:
    """A microfacet normal of GGX that `toward` sees, both in the frame of the surface."""
    stretched = dr.normalize(mi.Vector3f(alpha * toward.x, alpha * toward.y, toward.z))
    length = dr.square(stretched.x) + dr.square(stretched.y)
    inverse = dr.rsqrt(dr.maximum(length, 1e-12))
    t1 = dr.select(length > 1e-12, mi.Vector3f(-stretched.y * inverse, stretched.x * inverse, 0), mi.Vector3f(1, 0, 0))
    t2 = dr.cross(stretched, t1)
    r = dr.sqrt(u.x)
    sin, cos = dr.sincos(2 * dr.pi * u.y)
    a, b = r * cos, r * sin
    s = 0.5 * (1 + stretched.z)
    b = (1 - s) * dr.safe_sqrt(1 - a * a) + s * b
    n = a * t1 + b * t2 + dr.safe_sqrt(1 - a * a - b * b) * stretched
    return dr.normalize(mi.Vector3f(alpha * n.x, alpha * n.y, dr.maximum(n.z, 1e-6)))


def _shadowing(cos: Any, alpha: Any) -> Any:
    """Smith's masking of GGX for one direction."""
    c = dr.square(cos)
    return 2 * cos / dr.maximum(cos + dr.sqrt(dr.square(alpha) + (1 - dr.square(alpha)) * c), 1e-6)


def _direct(tables: Tables, point: Any, normal: Any, pick: Any, u: Any, active: Any) -> Any:
    """Irradiance over pi at `point` from one light drawn by power, shadows included; Color3f."""
    draw = dr.minimum(mi.UInt32(pick * DRAWS), DRAWS - 1)
    index = dr.gather(mi.UInt32, tables.light_draw, draw, active)
    row = _row(tables.lights, index, LIGHT, active)
    centre, facing = mi.Point3f(*row[0:3]), mi.Vector3f(*row[3:6])
    edge_u, edge_v = mi.Vector3f(*row[6:9]), mi.Vector3f(*row[9:12])
    probability = row[15]
    # Spheres have no normal: they are discs that face the point.
    ball = dr.squared_norm(facing) < 0.5
    away = dr.normalize(centre - point)
    frame = mi.Frame3f(away)
    sin, cos = dr.sincos(2 * dr.pi * u.y)
    radius = dr.norm(edge_u)
    on_disc = dr.sqrt(u.x) * radius * (cos * frame.s + sin * frame.t)
    on_rectangle = (2 * u.x - 1) * edge_u + (2 * u.y - 1) * edge_v
    target = centre + dr.select(ball, on_disc, on_rectangle)
    area = dr.select(ball, dr.pi * dr.square(radius), 4 * radius * dr.norm(edge_v))
    path = target - point
    distance2 = dr.maximum(dr.squared_norm(path), 1e-4)
    distance = dr.sqrt(distance2)
    toward = path / distance
    cos_surface = dr.dot(normal, toward)
    cos_light = dr.select(ball, 1, -dr.dot(facing, toward))
    lit = active & (cos_surface > 0) & (cos_light > 0)
    ray = mi.Ray3f(point, toward)
    ray.maxt = distance * 0.999
    lit &= ~tables.solid.ray_test(ray, coherent=False, active=lit)
    strength = cos_surface * cos_light * area / (dr.pi * dr.maximum(distance2, 0.01) * dr.maximum(probability, 1e-6))
    return dr.select(lit, mi.Color3f(*row[12:15]) * strength, 0)


def _limited(color: Any, limit: Any) -> Any:
    """The colour scaled down so that no channel is over the limit."""
    return color * (limit / dr.maximum(dr.max(color), limit))


@dr.syntax
def _paths(tables: Tables, origin: Any, direction: Any, start: Any, pcg: Any, bounces: Any) -> tuple[Any, Any, Any]:
    """Radiance, albedo and normal of what rays see.

    Args:
        start: Three random numbers for the light at the first diffuse hit, spread over the samples of a pixel.
        pcg: A random generator of as many streams as there are rays.
        bounces: Diffuse surfaces along a path.
    """
    o, d = mi.Point3f(origin), mi.Vector3f(direction)
    throughput, result = mi.Color3f(1), mi.Color3f(0)
    albedo, normal = mi.Color3f(0), mi.Normal3f(0)
    active, clear, first = mi.Bool(True), mi.Bool(True), mi.Bool(True)
    depth, steps = mi.UInt32(0), mi.UInt32(0)
    while active:
        ray = mi.Ray3f(o, d)
        solid = tables.solid.ray_intersect_preliminary(ray, coherent=False, active=active)
        # Only rays that have not met a diffuse surface see what is thin.
        thin = tables.thin.ray_intersect_preliminary(ray, coherent=False, active=active & clear)
        nearer = thin.t < solid.t
        t = dr.minimum(solid.t, thin.t)
        active &= t < dr.inf
        face = dr.select(nearer, thin.prim_index + tables.solid_count, solid.prim_index)
        b = dr.select(nearer, thin.prim_uv, solid.prim_uv)
        row = _row(tables.faces, face, FACE, active)
        n0, n1, n2 = mi.Vector3f(*row[0:3]), mi.Vector3f(*row[3:6]), mi.Vector3f(*row[6:9])
        flat = mi.Vector3f(*row[9:12])
        b0 = 1 - b.x - b.y
        shading = dr.normalize(b0 * n0 + b.x * n1 + b.y * n2)
        u = b0 * row[12] + b.x * row[14] + b.y * row[16]
        v = b0 * row[13] + b.x * row[15] + b.y * row[17]
        color = mi.Color3f(*row[18:21])
        material = _row(tables.materials, mi.UInt32(row[21]), MATERIAL, active)
        width, height = mi.UInt32(material[1]), mi.UInt32(material[2])
        textured = active & (width > 0)
        r0, r1 = pcg.next_float32(), pcg.next_float32()
        texel = _texture(tables, mi.UInt32(material[0]), width, height, u, v, mi.Point2f(r0, r1), textured)
        base = dr.select(textured, texel, color)
        roughness, metallic, specular = material[3], material[4], material[5]
        emission = mi.Color3f(*material[6:9]) * dr.select(textured, texel, 1)
        reflecting = material[9] > 0.5
        glow = dr.max(mi.Color3f(*material[6:9])) >= GLOWING
        result += dr.select(active & clear, throughput * emission, 0)

        # Both sides of a surface are alike: the normals face the ray.
        flat = dr.select(dr.dot(flat, d) > 0, -flat, flat)
        shading = dr.select(dr.dot(shading, flat) < 0, -shading, shading)
        shading = dr.select(dr.dot(shading, d) < 0, shading, flat)
        mark = active & first & ~reflecting
        albedo = dr.select(mark, dr.select(glow, _limited(emission, 1), base), albedo)
        normal = dr.select(mark, mi.Normal3f(shading), normal)
        first &= ~mark
        active &= ~glow

        frame = mi.Frame3f(shading)
        toward = frame.to_local(-d)
        cos = dr.maximum(toward.z, 1e-4)
        r2, r3, r4 = pcg.next_float32(), pcg.next_float32(), pcg.next_float32()
        alpha = dr.maximum(dr.square(roughness), 0.002)
        facet = _visible_normal(mi.Vector3f(toward.x, toward.y, cos), alpha, mi.Point2f(r2, r3))
        facing = dr.select(reflecting, cos, dr.maximum(dr.dot(facet, toward), 0))
        f0 = dr.lerp(mi.Color3f(0.08 * specular), base, metallic)
        grazing = dr.power(1 - facing, 5) * (1 - roughness)
        fresnel = f0 + (1 - f0) * grazing
        diffuse = base * (1 - metallic)
        # After a diffuse bounce metal is diffuse, too.
        diffuse = dr.select(clear, diffuse * (1 - dr.mean(fresnel)), base)
        shine = dr.mean(fresnel)
        chance = dr.select(clear, shine / dr.maximum(shine + dr.mean(diffuse), 1e-4), 0)
        chance = dr.select(reflecting, 1, dr.select(shine < 0.004, 0, chance))
        is_specular = active & (r4 < chance)

        # Specular: mirrors and gloss.
        local = dr.select(reflecting, mi.Vector3f(-toward.x, -toward.y, toward.z), mi.reflect(toward, facet))
        weight = dr.select(
            reflecting,
            mi.Color3f(MIRROR),
            fresnel * _shadowing(dr.maximum(local.z, 1e-4), alpha) / dr.maximum(chance, 1e-4),
        )
        bounced = frame.to_world(local)

        # Diffuse: light from the lights now, from other surfaces by going on.
        point = o + d * t
        scale = dr.maximum(dr.max(dr.abs(point)), 1)
        point = point + flat * (scale * 2e-4)
        is_diffuse = active & ~is_specular
        first_bounce = depth == 0
        r5, r6, r7 = pcg.next_float32(), pcg.next_float32(), pcg.next_float32()
        u1, u2 = dr.select(first_bounce, start.x, r5), dr.select(first_bounce, start.y, r6)
        throughput_diffuse = throughput * diffuse / dr.maximum(1 - chance, 1e-4)
        light = throughput_diffuse * _direct(
            tables, point, shading, dr.select(first_bounce, start.z, r7), mi.Point2f(u1, u2), is_diffuse
        )
        result += dr.select(is_diffuse, _limited(light, dr.select(first_bounce, DIRECT_LIMIT, INDIRECT_LIMIT)), 0)
        r8, r9 = pcg.next_float32(), pcg.next_float32()
        scattered = frame.to_world(mi.warp.square_to_cosine_hemisphere(mi.Point2f(r8, r9)))

        d = dr.select(is_specular, bounced, scattered)
        throughput = dr.select(is_specular, throughput * weight, throughput_diffuse)
        o = mi.Point3f(point)
        clear &= is_specular
        depth = dr.select(is_diffuse, depth + 1, depth)
        steps += 1
        active &= (dr.dot(d, flat) > 0) & (depth < bounces) & (steps < bounces + 4)
        # Russian roulette: dim paths end early, the others carry their light.
        r10 = pcg.next_float32()
        survive = dr.select(depth > 1, dr.clip(dr.max(throughput), 0.05, 0.95), 1)
        active &= r10 < survive
        throughput = throughput / survive
    return result, albedo, normal


def radiance(
    tables: Tables,
    position: Floats,
    axes: Floats,
    intrinsics: tuple[float, float, float, float],
    size: tuple[int, int],
    samples: int,
    seed: int,
    bounces: int = 4,
) -> tuple[Floats, Floats, Floats]:
    """Linear RGB, albedo and normals that a pinhole camera sees, all float32 [H, W, 3].

    Args:
        position: Of the camera, [3].
        axes: Rows are the directions right, down and forward, [3, 3].
        intrinsics: fx, fy, cx, cy in pixels, whose centres have whole coordinates.
        size: Width and height.
        samples: Paths of each pixel.
        seed: Of the random numbers.
    """
    width, height = size
    n = width * height * samples
    lane = dr.arange(mi.UInt32, n)
    # What differs from picture to picture is a variable: a literal would be compiled in.
    per_pixel, across, key = (dr.opaque(mi.UInt32, value) for value in (samples, width, seed))
    fx, fy, cx, cy = (dr.opaque(mi.Float, value) for value in intrinsics)
    right, down, forward = (mi.Vector3f(*(dr.opaque(mi.Float, float(c)) for c in axis)) for axis in axes)
    origin = mi.Point3f(*(dr.opaque(mi.Float, float(c)) for c in position))
    pixel = lane // per_pixel
    sample = mi.Float(lane - pixel * per_pixel)
    # The samples of a pixel are spread by an additive recurrence in five dimensions (the R sequence of M. Roberts),
    # begun at a place that is random for each pixel.
    spread = PCG32(1, initstate=key, initseq=pixel + 1)
    places = []
    for power in range(1, 6):
        x = spread.next_float32() + sample * float(1.1347241384015194**-power)  # the root of x**6 = x + 1
        places.append(x - dr.floor(x))
    x = mi.Float(pixel % across) + places[0] - 0.5
    y = mi.Float(pixel // across) + places[1] - 0.5
    direction = dr.normalize((x - cx) / fx * right + (y - cy) / fy * down + forward)
    pcg = PCG32(1, initstate=key + 0x9E3779B9, initseq=lane + 1)
    images = _paths(tables, origin, direction, mi.Point3f(*places[2:]), pcg, dr.opaque(mi.UInt32, bounces))
    channels = [channel for image in images for channel in image]
    dr.eval(channels)  # all in one kernel: a sum over samples alone would trace the paths once for every channel
    if samples > 1:
        channels = [dr.block_sum(channel, samples) for channel in channels]
    stacked = np.stack([np.array(channel) for channel in channels], -1).reshape(height, width, 9) / np.float32(samples)
    return stacked[..., 0:3], stacked[..., 3:6], stacked[..., 6:9]
