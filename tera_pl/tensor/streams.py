"""Random values from a named stream of bits, the same on every machine.

Words of 32 bits come from SHAKE-256 over a name and a counter. All arithmetic is in float64, one
elementwise operation at a time, with only those operations that IEEE 754 rounds correctly.
"""

import hashlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor

CHUNK = 1 << 20  # words per digest: bounds memory at a few tens of megabytes


def words(name: str, count: int) -> Iterator[Tensor]:
    """Generate the first words of a stream.

    Args:
        name: Name of the stream.
        count: Number of words.

    Yields:
        Tensors of at most `CHUNK` integers in `[0, 2^32)`, int64.
    """
    for chunk, start in enumerate(range(0, count, CHUNK)):
        size = min(CHUNK, count - start)
        digest = hashlib.shake_256(f"{name}#{chunk}".encode()).digest(4 * size)
        signed = torch.frombuffer(bytearray(digest), dtype=torch.int32)
        yield signed.to(torch.int64) & 0xFFFFFFFF


def rademacher(name: str, count: int) -> Iterator[Tensor]:
    """Draw signs: +1 or -1, one per bit of the stream.

    Args:
        name: Name of the stream.
        count: Number of values.

    Yields:
        Chunks in float64.
    """
    for start, chunk in enumerate(words(name, math.ceil(count / 32))):
        bits = (chunk.unsqueeze(1) >> torch.arange(32, device="cpu")) & 1
        yield (bits * 2 - 1).reshape(-1)[: count - start * CHUNK * 32].double()


def uniform(name: str, count: int) -> Iterator[Tensor]:
    """Draw uniform values of mean 0 and variance 1.

    Args:
        name: Name of the stream.
        count: Number of values.

    Yields:
        Chunks in float64.
    """
    for chunk in words(name, count):
        yield (_open_unit(chunk) * 2 - 1) * math.sqrt(3)


def normal(name: str, count: int) -> Iterator[Tensor]:
    """Draw standard normal values by inversion.

    Args:
        name: Name of the stream.
        count: Number of values.

    Yields:
        Chunks in float64.
    """
    for chunk in words(name, count):
        yield normal_quantile(_open_unit(chunk))


def half_normal(name: str, count: int) -> Iterator[Tensor]:
    """Draw absolute values of standard normal ones: mean sqrt(2 / pi), mean square 1.

    Args:
        name: Name of the stream.
        count: Number of values.

    Yields:
        Chunks in float64.
    """
    for chunk in normal(name, count):
        yield chunk.abs()


def constant(name: str, count: int) -> Iterator[Tensor]:
    """Give ones, whatever the stream.

    Args:
        name: Name of the stream.
        count: Number of values.

    Yields:
        Chunks in float64.
    """
    del name
    for start in range(0, count, CHUNK):
        yield torch.ones(min(CHUNK, count - start), device="cpu", dtype=torch.float64)


def _open_unit(chunk: Tensor) -> Tensor:
    """Map words to `(0, 1)`, centered in their cells; exact."""
    return (chunk.double() + 0.5) * 2.0**-32


def _polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Evaluate a polynomial, highest coefficient first, by Horner's rule."""
    value = torch.full_like(x, coefficients[0])
    for coefficient in coefficients[1:]:
        value = value * x
        value = value + coefficient
    return value


_LOG_2 = 0.6931471805599453

# Algorithm AS 241 (Wichura, Applied Statistics 37, 1988), PPND16: numerator and denominator of the
# center, the near tails and the far tails, highest coefficient first.
_CENTRE = (
    (2.5090809287301226727e3, 3.3430575583588128105e4, 6.7265770927008700853e4,
     4.5921953931549871457e4, 1.3731693765509461125e4, 1.9715909503065514427e3,
     1.3314166789178437745e2, 3.3871328727963666080e0),
    (5.2264952788528545610e3, 2.8729085735721942674e4, 3.9307895800092710610e4,
     2.1213794301586595867e4, 5.3941960214247511077e3, 6.8718700749205790830e2,
     4.2313330701600911252e1, 1.0),
)  # fmt: skip
_NEAR = (
    (7.74545014278341407640e-4, 2.27238449892691845833e-2, 2.41780725177450611770e-1,
     1.27045825245236838258e0, 3.64784832476320460504e0, 5.76949722146069140550e0,
     4.63033784615654529590e0, 1.42343711074968357734e0),
    (1.05075007164441684324e-9, 5.47593808499534494600e-4, 1.51986665636164571966e-2,
     1.48103976427480074590e-1, 6.89767334985100004550e-1, 1.67638483018380384940e0,
     2.05319162663775882187e0, 1.0),
)  # fmt: skip
_FAR = (
    (2.01033439929228813265e-7, 2.71155556874348757815e-5, 1.24266094738807843860e-3,
     2.65321895265761230930e-2, 2.96560571828504891230e-1, 1.78482653991729133580e0,
     5.46378491116411436990e0, 6.65790464350110377720e0),
    (2.04426310338993978564e-15, 1.42151175831644588870e-7, 1.84631831751005468180e-5,
     7.86869131145613259100e-4, 1.48753612908506148525e-2, 1.36929880922735805310e-1,
     5.99832206555887937690e-1, 1.0),
)  # fmt: skip


def normal_quantile(probability: Tensor) -> Tensor:
    """Invert the standard normal distribution function.

    Args:
        probability: In `(0, 1)`, float64.

    Returns:
        Quantiles, with a relative error of about 1e-15.
    """
    centered = probability - 0.5
    r = 0.180625 - centered * centered
    value = centered * (_polynomial(_CENTRE[0], r) / _polynomial(_CENTRE[1], r))
    tail = centered.abs() > 0.425
    if tail.any():
        side = centered[tail]
        outside = torch.where(side < 0, probability[tail], 1 - probability[tail])
        root = torch.sqrt(-_log(outside))
        near, far = root - 1.6, root - 5.0
        magnitude = torch.where(
            root <= 5.0,
            _polynomial(_NEAR[0], near) / _polynomial(_NEAR[1], near),
            _polynomial(_FAR[0], far) / _polynomial(_FAR[1], far),
        )
        value[tail] = torch.where(side < 0, -magnitude, magnitude)
    return value


def _log(x: Tensor) -> Tensor:
    """Natural logarithm in elementary steps; `torch.log` rounds differently per vector unit."""
    mantissa, exponent = torch.frexp(x)  # exact; mantissa in [1/2, 1)
    ratio = (mantissa - 1) / (mantissa + 1)  # log(m) = 2 artanh(ratio), ratio in [-1/3, 0)
    square = ratio * ratio
    # (1/9)^17 / 35 is below the rounding of float64.
    series = _polynomial(tuple(1 / k for k in range(35, 0, -2)), square)
    return exponent.double() * _LOG_2 + 2 * ratio * series


def kac_rotation(name: str, size: int) -> Tensor:
    """Draw a random rotation by a parallel Kac walk.

    Starting from the identity, each stage pairs all rows at random and turns every pair by a
    random angle. After a few times `log2(size)` stages the matrix is close to one drawn from
    the Haar measure; it is orthogonal to rounding at any stage. A QR decomposition is not
    bit-stable, and making it so would not be cheaper.

    Args:
        name: Name of the stream.
        size: Number of rows and columns.

    Returns:
        Orthogonal matrix of shape `(size, size)` in float64.
    """
    matrix = torch.eye(size, dtype=torch.float64, device="cpu")
    if size == 1:
        return matrix
    half = size // 2
    for stage in range(4 * math.ceil(math.log2(size))):
        order = torch.cat(list(words(f"{name}#pairs{stage}", size))).sort(stable=True).indices
        first, second = order[:half], order[half : 2 * half]
        gauss = torch.cat(list(normal(f"{name}#angles{stage}", 2 * half))).reshape(2, half, 1)
        length = torch.sqrt(gauss[0] * gauss[0] + gauss[1] * gauss[1])
        cosine, sine = gauss[0] / length, gauss[1] / length
        above, below = matrix[first], matrix[second]
        matrix[first] = above * cosine - below * sine
        matrix[second] = above * sine + below * cosine
    return matrix
