"""Frozen tensors are a function of their key: golden values, statistics, sharing."""

import copy
import math
import os
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
import torch

from tera_pl.tensor import (
    FrozenKey,
    FrozenTensor,
    TensorNetwork,
    contract,
    digest,
    draw,
    fingerprint,
    network_keys,
)
from tera_pl.tensor.frozen import draw_parts
from tera_pl.tensor.streams import kac_rotation, normal_quantile, words
from tests.soak import SOAK

# SHA-256 of the float32 bytes, by distribution and role. A change here is a new scheme.
GOLDEN = {
    "normal-core": "4c8fac7ce70302ba8fe8e19fe22612cb9a148cbc1d00e3dda75d4d5172b18509",
    "normal-out": "d5beae733edd5795e0563f16c4aee8c5aabc13bdcb048c8dcbb99001704568dc",
    "normal-in": "898bac125ea822142bafa0ed14dccf11842478db61a2ce1e55afb05584659457",
    "uniform-core": "50c380efb8e6a833c55202d7d12d532d2127047da446be08570a910f7561ce9c",
    "uniform-out": "2660abf2af09cedae42dadf0f9fc6f6c953f09d8e299e3de4cb50880ca1b84e8",
    "uniform-in": "3d3efe9beeafc4cfc92c3ac62ca0995c468770365f577e433ecd69db4ace5d47",
    "rademacher-core": "d6d84022e02c9e37096b0974b6e03e4ef63005cb321e5665e2a6363cf9ff0265",
    "rademacher-out": "2ff1d498779bda2cfd4ec5682c9a1755d89a38e721a3981603c22715539677e6",
    "rademacher-in": "6a72a216c8ff7b198cf5a023356703c2fb2bfacc015da7862ee958bc6c07f093",
    "orthogonal-core": "78828c5b581ff1353fb886728904d0ee14b8e11bd51c8255d560656f4e5f8352",
    "orthogonal-out": "9e57a2806398ed87dc31c1aa610abf223eb9ec17b8131ab04d61e423ff672082",
    "half_normal-core": "cce9d65d5428c1fe4a3247b8f77ff0257c4b86b84108deec5e783eda7326daa1",
    "constant-core": "79464385b40eade0fb1fdb6208663e2f5fb65657199359a74da4a5543a65cbe5",
    "orthogonal-in": "01589dc94a9a927fd4066d69070f06632ddfba046e554000fa89fe2f683207eb",
}

CPU = torch.device("cpu")
DISTRIBUTIONS = ["normal", "uniform", "rademacher", "orthogonal"]
OF_CORES = ["half_normal", "constant"]


def key(distribution, shape=(48, 64), role="in", seed=7):
    return FrozenKey(seed, role, 0, shape, 1 if role == "core" else 0, distribution)


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_values(name):
    distribution, role = name.split("-")
    assert digest(draw(key(distribution, role=role))) == GOLDEN[name]


@pytest.mark.parametrize("role", ["core", "in"])
@pytest.mark.parametrize("distribution", [*DISTRIBUTIONS, *OF_CORES, "kronecker", "identity"])
def test_draws_on_the_cpu_whatever_the_default_device(distribution, role):
    """Lightning builds models under `torch.device("cuda")`; any device shows it."""
    if distribution in {"core": ["identity"], "in": OF_CORES}[role]:
        return
    wanted = key(distribution, (64, 64), role)
    expected, parts = draw(wanted), draw_parts(wanted)
    with torch.device("meta"):
        found, found_parts = draw(wanted), draw_parts(wanted)
    assert torch.equal(found, expected)
    for part, other in zip(found_parts or (), parts or (), strict=True):
        assert torch.equal(part, other)


PROGRAM = """
import torch
torch.set_num_threads({threads})
from tera_pl.tensor import FrozenKey, digest, draw
for name in {names}:
    distribution, role = name.split("-")
    key = FrozenKey(7, role, 0, (48, 64), 1 if role == "core" else 0, distribution)
    print(name, digest(draw(key)))
"""


@pytest.mark.parametrize(
    ("capability", "threads"),
    [("default", 1), (None, 2), *([("default", 2), (None, 1)] if SOAK else [])],
)
@pytest.mark.slow
def test_golden_values_on_other_vector_units_and_threads(capability, threads):
    environment = {k: v for k, v in os.environ.items() if k != "ATEN_CPU_CAPABILITY"}
    if capability is not None:
        environment["ATEN_CPU_CAPABILITY"] = capability
    program = PROGRAM.format(threads=threads, names=list(GOLDEN))
    done = subprocess.run(
        [sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True
    )
    assert dict(line.split() for line in done.stdout.splitlines()) == GOLDEN


def test_stream_is_shake_256_read_as_little_endian_words():
    # First bytes of SHAKE-256 over b"x#0", from another implementation: openssl.
    done = subprocess.run(
        ["openssl", "dgst", "-shake256", "-xoflen", "8"],
        input=b"x#0",
        capture_output=True,
        check=False,
    )
    if done.returncode:
        pytest.skip("no openssl with SHAKE-256 on this machine")
    data = bytes.fromhex(done.stdout.decode().split("= ")[1].strip())
    expected = [int.from_bytes(data[i : i + 4], "little") for i in (0, 4)]
    assert torch.cat(list(words("x", 2))).tolist() == expected


def test_quantile_is_that_of_scipy():
    tails = torch.logspace(-10, -1, 40, dtype=torch.float64)
    middle = torch.linspace(0.001, 0.999, 2001, dtype=torch.float64)
    probability = torch.cat([tails, middle, 1 - tails])
    expected = torch.from_numpy(scipy.stats.norm.ppf(probability.numpy()))
    torch.testing.assert_close(normal_quantile(probability), expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(
    ("distribution", "cdf"),
    [
        ("normal", scipy.stats.norm.cdf),
        ("uniform", lambda x: scipy.stats.uniform.cdf(x, -math.sqrt(3), 2 * math.sqrt(3))),
        ("orthogonal", scipy.stats.norm.cdf),
    ],
)
def test_entries_follow_their_distribution(distribution, cdf):
    drawn = draw(key(distribution, (200, 200))).double() * math.sqrt(200)
    # 2,000 of the entries: a fixed draw, so this passes for good or never.
    assert scipy.stats.kstest(drawn.flatten()[::20].numpy(), cdf).pvalue > 0.01


def test_half_normal_cores_are_absolute_values_of_normal_ones():
    drawn = draw(key("half_normal", (200, 200), "core")).double() * math.sqrt(200)
    entries = drawn.flatten()[::20].numpy()
    assert scipy.stats.kstest(entries, scipy.stats.halfnorm.cdf).pvalue > 0.01
    # The mean is a direction that all rows share; what is left has full rank.
    values = torch.linalg.svdvals(drawn)
    assert 0.6 < values[0] ** 2 / values.square().sum() < 0.7
    assert torch.linalg.matrix_rank(drawn) == 200


def test_a_constant_core_of_two_modes_is_lora_of_rank_one():
    core, factors = network_keys([6], [10], [6, 10], 0, "constant", "identity")
    generator = torch.Generator().manual_seed(0)
    left, right = torch.randn(6, generator=generator), torch.randn(10, generator=generator)
    network = TensorNetwork(draw(core), [draw(factor) for factor in factors], [left, right], 1)
    torch.testing.assert_close(contract(network), torch.outer(left, right) / math.sqrt(6))


@pytest.mark.parametrize("distribution", OF_CORES)
def test_only_cores_have_entries_of_one_sign(distribution):
    with pytest.raises(ValueError, match=f"out cannot be '{distribution}': expected normal"):
        draw(key(distribution, role="out"))


def test_signs_are_balanced():
    drawn = draw(key("rademacher", (200, 200))) * math.sqrt(200)
    torch.testing.assert_close(drawn.abs(), torch.ones(200, 200))
    assert abs(drawn.sum().item()) < 4 * 200


@pytest.mark.parametrize("size", [1, 2, 3, 50, 64])
def test_rotation_is_orthogonal(size):
    rotation = kac_rotation("name", size)
    identity = torch.eye(size, dtype=torch.float64)
    torch.testing.assert_close(rotation @ rotation.T, identity, rtol=0, atol=1e-13)


def test_rotation_has_the_entries_of_a_haar_matrix():
    ours = kac_rotation("name", 256).flatten().numpy()
    haar = scipy.stats.ortho_group.rvs(256, random_state=0).flatten()
    assert scipy.stats.ks_2samp(ours[::13], haar[::13]).pvalue > 0.01
    assert abs(ours).max() < 1.3 * abs(haar).max()


@pytest.mark.parametrize("shape", [(6, 10), (10, 10)])
def test_orthogonal_factor_has_orthogonal_rows(shape):
    drawn = draw(key("orthogonal", shape)).double()
    expected = torch.eye(shape[0], dtype=torch.float64) * shape[1] / shape[0]
    torch.testing.assert_close(drawn @ drawn.T, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("core_init", [*DISTRIBUTIONS, *OF_CORES, "kronecker"])
@pytest.mark.parametrize("factor_init", [*DISTRIBUTIONS, "identity", "kronecker"])
@pytest.mark.parametrize("reduced", [False, True])
@pytest.mark.slow
def test_update_keeps_the_norm_in_expectation(core_init, factor_init, reduced):
    out_modes, in_modes = (4, 8), (6, 9)
    ranks = (3, 6, 5, 9) if reduced and factor_init in DISTRIBUTIONS else (4, 8, 6, 9)
    gains = []
    for seed in range(40):
        core, factors = network_keys(out_modes, in_modes, ranks, seed, core_init, factor_init)
        network = TensorNetwork(
            draw(core).double(),
            [draw(factor).double() for factor in factors],
            [torch.ones(rank, dtype=torch.float64) for rank in ranks],
            2,
        )
        # E ||W x||^2 over isotropic x of unit norm is ||W||_F^2 / in_features.
        gains.append(contract(network).square().sum().item() / 54)
    gains = torch.tensor(gains)
    assert abs(gains.mean() - 1) < 4 * gains.std() / math.sqrt(len(gains)) + 1e-5


@pytest.mark.parametrize(("size", "sizes"), [(12, (3, 4)), (64, (8, 8)), (7, (7,))])
@pytest.mark.parametrize("role", ["in", "out"])
def test_kronecker_factor_is_a_rotation_and_the_product_of_its_parts(size, sizes, role):
    frozen = FrozenTensor(key("kronecker", (size, size), role), CPU, torch.float32)
    parts = frozen.parts()
    assert tuple(len(part) for part in parts) == sizes
    expected = parts[0].numpy()
    for part in parts[1:]:
        expected = np.kron(expected, part.numpy())
    np.testing.assert_array_equal(frozen.value.numpy(), expected)
    gram = frozen.value.double() @ frozen.value.double().T
    torch.testing.assert_close(gram, torch.eye(size, dtype=torch.float64), rtol=0, atol=1e-6)
    # Another tensor from a file has no such parts.
    frozen.replace(torch.ones(size, size))
    assert frozen.parts() is None
    assert torch.equal(frozen.value, torch.ones(size, size))


@pytest.mark.parametrize(
    ("shape", "sizes"),
    [((4, 6, 10), [(4, 2), (6, 5)]), ((4, 6, 7), [(24, 7)]), ((3, 3, 4, 6), [(3, 4), (3, 6)])],
)
def test_kronecker_core_unfolds_to_the_product_of_its_parts(shape, sizes):
    split = len(shape) - 1 if len(shape) == 3 else 2
    frozen = FrozenTensor(FrozenKey(7, "core", 0, shape, split, "kronecker"), CPU, torch.float32)
    parts = frozen.parts()
    assert [tuple(part.shape) for part in parts] == sizes
    rows, columns = math.prod(shape[:split]), math.prod(shape[split:])
    expected = parts[0].numpy()
    for part in parts[1:]:
        expected = np.kron(expected, part.numpy())
    np.testing.assert_array_equal(frozen.value.numpy().reshape(rows, columns), expected)
    assert torch.linalg.matrix_rank(frozen.value.reshape(rows, columns)) == min(rows, columns)


def test_kronecker_factor_needs_the_full_rank():
    with pytest.raises(ValueError, match="mode of 12 has rank 6: expected 12"):
        draw(key("kronecker", (6, 12)))


def test_identity_is_exactly_that():
    assert torch.equal(draw(key("identity", (3, 5))), torch.eye(3, 5))
    with pytest.raises(ValueError, match="core cannot be 'identity': expected normal"):
        draw(key("identity", role="core"))
    with pytest.raises(ValueError, match="in cannot be 'cauchy'"):
        draw(key("cauchy"))


def test_every_part_of_the_key_matters():
    base = FrozenKey(0, "in", 0, (4, 6), 0, "normal")
    others = [
        FrozenKey(1, "in", 0, (4, 6), 0, "normal"),
        FrozenKey(0, "out", 0, (4, 6), 0, "normal"),
        FrozenKey(0, "in", 1, (4, 6), 0, "normal"),
        FrozenKey(0, "core", 0, (4, 6), 1, "normal"),
    ]
    for other in others:
        first, second = draw(base).flatten(), draw(other).flatten()
        assert abs(torch.corrcoef(torch.stack([first, second]))[0, 1]) < 0.9


def test_factors_of_one_place_are_shared_between_layers_of_other_shapes():
    _, query = network_keys((8, 8), (64,), (8, 8, 64), 0, "normal", "normal")
    _, value = network_keys((4, 4), (64,), (4, 4, 64), 0, "normal", "normal")
    assert query[2] == value[2]
    assert query[0] != value[0]


def test_never_an_inference_tensor():
    with torch.inference_mode():
        drawn = draw(key("normal"))
    assert not drawn.is_inference()


def test_fingerprint_depends_on_keys_and_values_only():
    first = {"a": digest(torch.ones(2)), "b": digest(torch.zeros(2))}
    assert fingerprint(first) == fingerprint(dict(reversed(first.items())))
    assert fingerprint(first) != fingerprint({"a": first["b"], "b": first["a"]})


def test_module_shares_one_tensor_after_moving_and_copying():
    tensor = FrozenTensor(key("normal"), torch.device("cpu"), torch.float32)
    model = torch.nn.ModuleList([torch.nn.ModuleDict({"t": tensor}) for _ in range(3)])
    for changed in (model.to(torch.bfloat16), copy.deepcopy(model)):
        assert len({part["t"].value.data_ptr() for part in changed}) == 1
    assert model.state_dict() == {}


def test_bfloat16_is_the_cast_of_the_same_draw():
    device = torch.device("cpu")
    wide = FrozenTensor(key("normal"), device, torch.float32)
    narrow = FrozenTensor(key("normal"), device, torch.bfloat16)
    assert torch.equal(narrow.value, wide.value.bfloat16())
    assert narrow.digest == wide.digest


def test_nothing_is_drawn_on_the_meta_device():
    huge = FrozenTensor(key("normal", (1 << 20, 1 << 20)), torch.device("meta"), torch.float32)
    assert huge.digest is None
    assert huge.value.is_meta
