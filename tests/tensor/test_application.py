"""Both paths of applying a network, forward and backward, and what they save."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from tera_pl.tensor import (
    SharedProjections,
    TensorNetwork,
    apply,
    apply_linear,
    apply_mixed,
    contract,
)
from tests.tensor.conftest import PATHS, make_network, saved_bytes, share_factors, tensors


def rebuild(network, vectors):
    return replace(network, vectors=vectors)


@pytest.mark.parametrize("compute", PATHS)
def test_application_is_the_product_with_the_update(network, compute):
    inputs, weight, bias = tensors(network)
    update = contract(network)
    torch.testing.assert_close(
        apply(network, inputs, compute), inputs @ update.T, rtol=0, atol=1e-10
    )
    torch.testing.assert_close(
        apply_linear(network, inputs, weight, bias, compute),
        inputs @ (weight + update).T + bias,
        rtol=0,
        atol=1e-10,
    )


@pytest.mark.parametrize("compute", PATHS[:2])
def test_gradients(network, compute):
    inputs, weight, bias = tensors(network)

    def alone(inputs, *vectors):
        return apply(rebuild(network, vectors), inputs, compute)

    def with_layer(inputs, *vectors):
        return apply_linear(rebuild(network, vectors), inputs, weight, bias, compute)

    assert gradcheck(alone, (inputs, *network.vectors))
    assert gradcheck(with_layer, (inputs, *network.vectors))


@pytest.mark.parametrize("compute", PATHS[:2])
def test_second_derivative_is_a_clear_error_or_right(compute):
    network = make_network("out_split")
    inputs, weight, _ = tensors(network)
    for outputs in (apply(network, inputs, compute), apply_linear(network, inputs, weight)):
        with pytest.raises(RuntimeError, match="no second derivative: multiply with contract"):
            torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
    assert gradgradcheck(
        lambda x, *v: x @ contract(rebuild(network, v)).T, (inputs, *network.vectors)
    )


@pytest.mark.parametrize("rows", [2, 500])
def test_materialized_gradient_in_both_orders(rows):
    # Few rows: (g L)^T (x M^T); many: L^T (g^T x) M^T.
    network = make_network("both_split")
    inputs, _, _ = tensors(network, rows)
    by_autograd = torch.autograd.grad((inputs @ contract(network).T).sin().sum(), network.vectors)
    ours = torch.autograd.grad(apply(network, inputs, "materialized").sin().sum(), network.vectors)
    torch.testing.assert_close(ours, by_autograd, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("with_layer", [False, True])
def test_paths_agree_to_rounding(dtype, with_layer):
    network = make_network("both_split", dtype)
    inputs, weight, bias = tensors(network, dtype=dtype)
    results = []
    for compute in PATHS[:2]:
        if with_layer:
            outputs = apply_linear(network, inputs, weight, bias, compute)
        else:
            outputs = apply(network, inputs, compute)
        gradients = torch.autograd.grad(outputs.float().square().sum(), [inputs, *network.vectors])
        results.append([outputs, *gradients])
    # Each path rounds after at most eight products in a row; every rounding is half an eps of the
    # largest intermediate value, which cancellation may leave ten times above the result's scale.
    eps = torch.finfo(dtype).eps
    for first, second in zip(*results, strict=True):
        scale = first.float().abs().max().item()
        torch.testing.assert_close(first, second, rtol=0, atol=8 * 10 * eps / 2 * scale)


def test_outputs_have_the_type_of_the_frozen_layer():
    network = make_network("out_split", torch.bfloat16)
    inputs, weight, bias = tensors(network, dtype=torch.bfloat16)
    for compute in PATHS:
        outputs = apply_linear(network, inputs, weight, bias, compute)
        assert outputs.dtype == torch.bfloat16
        grads = torch.autograd.grad(outputs.sum(), [inputs, *network.vectors])
        assert [g.dtype for g in grads] == [torch.bfloat16] + [torch.float32] * 3


@pytest.mark.parametrize("compute", PATHS)
def test_small_update_survives_a_bfloat16_weight(compute):
    # DeltaW is about a thousandth of the weight: below half a step of bfloat16 (2^-9) for most
    # entries, so adding it to the weight in bfloat16 would drop most of it.
    network = make_network("in_split", torch.bfloat16, scaling=1e-3)
    inputs, weight, _ = tensors(network, rows=40, dtype=torch.bfloat16)
    weight = weight * 4
    update = contract(network).detach()
    exact = inputs.detach().float() @ update.T
    summed = inputs.detach().float() @ (weight + update.bfloat16()).float().T
    lost = summed - inputs.detach().float() @ weight.float().T - exact
    # The same inputs without the frozen part, whose own rounding would hide the update.
    ours = apply_linear(network, inputs.detach(), torch.zeros_like(weight), None, compute).detach()
    assert lost.norm() > 0.3 * exact.norm()
    assert (ours.float() - exact).norm() < 0.02 * exact.norm()


@pytest.mark.parametrize("compute", PATHS)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3)])
def test_leading_dimensions(compute, shape):
    network = make_network("both_split")
    inputs = torch.randn(*shape, network.in_features, dtype=torch.float64)
    outputs = apply(network, inputs, compute)
    assert outputs.shape == (*shape, network.out_features)
    torch.testing.assert_close(outputs, inputs @ contract(network).T)


def test_inputs_need_not_be_contiguous():
    network = make_network("both_split")
    inputs = torch.randn(network.in_features, 5, dtype=torch.float64).T
    torch.testing.assert_close(apply(network, inputs), inputs @ contract(network).T)


def test_wrong_input_and_path_are_refused():
    network = make_network("both_split")
    with pytest.raises(ValueError, match=r"shape \(2, 21\): expected 20 in the last dimension"):
        apply(network, torch.randn(2, 21))
    with pytest.raises(ValueError, match="compute is 'fast': expected auto"):
        apply(network, torch.randn(2, 20, dtype=torch.float64), "fast")


@pytest.mark.parametrize("compute", PATHS[:2])
@pytest.mark.parametrize("with_layer", [False, True])
def test_little_is_saved(compute, with_layer):
    size = 64
    core, factor = torch.randn(8, 8, size), torch.randn(size, size)
    factors = [torch.randn(8, 8), torch.randn(8, 8), factor]
    vectors = [torch.randn(n).requires_grad_() for n in (8, 8, size)]
    network = TensorNetwork(core, factors, vectors, 2)
    weight = torch.randn(size, size)
    inputs = torch.randn(16, size, requires_grad=True)

    def run():
        if with_layer:
            return apply_linear(network, inputs, weight, None, compute)
        return apply(network, inputs, compute)

    saved, _ = saved_bytes(run)
    frozen = {t.untyped_storage().data_ptr() for t in (core, *factors, weight)}
    new = {pointer: size for pointer, size in saved.items() if pointer not in frozen}
    # Vectors with their products: at most six vectors of one dimension's size. The input; or, in
    # its place, M x and the product with the core, each as large.
    tall = 2 if compute == "factored" else 1
    assert sum(new.values()) <= tall * inputs.nbytes + 6 * 4 * size
    assert max(new.values()) == inputs.nbytes < weight.nbytes


@pytest.mark.parametrize("with_layer", [False, True])
def test_a_built_matrix_is_kept_if_it_is_no_larger_than_the_input(with_layer):
    network = make_network("out_split")
    inputs, weight, _ = tensors(network, rows=network.out_features)
    expected = torch.autograd.grad(
        ((inputs @ (contract(network) + with_layer * weight).T).sin()).sum(),
        [inputs, *network.vectors],
    )

    def run(rows):
        if with_layer:
            return apply_linear(network, rows, weight, None, "materialized")
        return apply(network, rows, "materialized")

    saved, outputs = saved_bytes(lambda: run(inputs))
    assert inputs.nbytes == weight.nbytes
    assert list(saved.values()).count(weight.nbytes) == 2
    found = torch.autograd.grad(outputs.sin().sum(), [inputs, *network.vectors])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)
    fewer, _ = saved_bytes(lambda: run(inputs[1:]))
    assert list(fewer.values()).count(weight.nbytes) == 1  # the input, a view of all of it


@pytest.mark.parametrize("compute", PATHS[:2])
@pytest.mark.parametrize("with_layer", [False, True])
def test_recompute_saves_one_tensor_less_and_changes_no_bit(compute, with_layer):
    network = make_network("out_split")
    inputs, weight, _ = tensors(network, rows=network.out_features)

    def run(recompute):
        chosen = replace(network, recompute=recompute)
        if with_layer:
            return apply_linear(chosen, inputs, weight, None, compute)
        return apply(chosen, inputs, compute)

    def gradients(outputs):
        return torch.autograd.grad(outputs.sin().sum(), [inputs, *network.vectors])

    kept, outputs = saved_bytes(lambda: run(recompute=False))
    fewer, again = saved_bytes(lambda: run(recompute=True))
    rows = network.out_features
    core_output = rows * network.out_features * inputs.element_size()  # of full ranks
    built = core_output if compute == "factored" else weight.nbytes
    assert sum(kept.values()) - sum(fewer.values()) == built
    assert torch.equal(again, outputs)
    assert all(map(torch.equal, gradients(again), gradients(outputs)))


@pytest.mark.parametrize("compute", PATHS)
def test_the_compiler_sees_one_graph(compute):
    shared = SharedProjections() if compute == "auto" else None
    query = make_network("both_split")
    value = share_factors(query, make_network("both_split", seed=5))
    leaf, weight, bias = tensors(query)

    def layers(inputs):
        added = apply(query, inputs, compute, shared)
        return added + apply_linear(value, inputs, weight, bias, compute, shared)

    compiled = torch.compile(layers, fullgraph=True, backend="eager")
    variables = [leaf, *query.vectors, *value.vectors]
    outputs, expected = compiled(leaf * 2), layers(leaf * 2)
    assert torch.equal(outputs, expected)
    found = torch.autograd.grad(outputs.sin().sum(), variables)
    by_layers = torch.autograd.grad(expected.sin().sum(), variables)
    torch.testing.assert_close(found, by_layers, rtol=1e-12, atol=1e-12)


def test_an_input_serves_several_backward_passes():
    network = make_network("out_split")
    inputs = tensors(network)[0].detach()
    found = []
    for _ in range(2):
        outputs = apply(network, inputs, "factored")
        found.append(torch.autograd.grad(outputs.sin().sum(), network.vectors))
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=0)
    leaf = inputs.clone().requires_grad_()
    view = leaf.view_as(leaf)  # its graph holds no tensor that a first pass could free
    for _ in range(2):
        apply(network, view, "factored").sum().backward()
    torch.testing.assert_close(
        leaf.grad, 2 * contract(network).detach().sum(0).expand(len(leaf), -1)
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("compute", PATHS)
def test_update_of_zero_leaves_the_layer_to_the_bit(dtype, compute):
    network = make_network("out_split", dtype)
    inputs, weight, bias = tensors(network, rows=33, dtype=dtype)
    vectors = [vector.detach() for vector in network.vectors]
    vectors[1] = torch.zeros_like(vectors[1])
    outputs = apply_linear(rebuild(network, vectors), inputs, weight, bias, compute)
    assert torch.equal(outputs, torch.nn.functional.linear(inputs, weight, bias))


def test_mixed_updates_are_those_of_one_network_at_a_time(network):
    generator = torch.Generator().manual_seed(2)
    vectors = [
        torch.randn(3, rank, generator=generator, dtype=torch.float64).requires_grad_()
        for rank in network.ranks
    ]
    scalings = torch.tensor([0.5, 2.0, -1.0], dtype=torch.float64)
    inputs = tensors(network)[0].reshape(3, 2, -1)
    outputs = apply_mixed(network, vectors, scalings, inputs)
    for example, scaling in enumerate(scalings.tolist()):
        one = replace(network, vectors=[vector[example] for vector in vectors], scaling=scaling)
        expected = inputs[example] @ contract(one).T
        torch.testing.assert_close(outputs[example], expected, rtol=0, atol=1e-10)

    def mixed(inputs, *vectors):
        return apply_mixed(network, vectors, scalings, inputs)

    assert gradcheck(mixed, (inputs.detach().requires_grad_(), *vectors))
