"""Products by stored weights: every way gives what the codes mean."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights import kernels, linear
from runtimes.torch_pipeline.weights.formats.base import Tensors, WeightKernel
from runtimes.torch_pipeline.weights.formats.registry import STORED_FORMATS
from runtimes.torch_pipeline.weights.linear import (
    KernelChoice,
    StoredLinear,
    fused_parts,
    linear_from_stored,
    linear_from_weight,
)
from runtimes.torch_pipeline.weights.quantizers import quantize
from tests.runtimes.linears_of_tests import (
    CPU,
    NEVER,
    fused_name,
    gaussian,
    made,
    numbers_of,
    stored_tensors,
    without_gradients,
)
from tests.runtimes.processors import PROCESSORS, bfloat16_instructions

processor = pytest.fixture(autouse=True, params=PROCESSORS)(bfloat16_instructions)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
STORED = sorted(STORED_FORMATS.keys() & FORMATS.keys())

inference = pytest.fixture(autouse=True)(without_gradients)


def held_bytes(module: nn.Module) -> int:
    return sum(tensor.nbytes for tensor in (*module.buffers(), *module.parameters()))


class RecordedKernel(WeightKernel):
    """A kernel that notes which way it was asked to go, and how much was decoded at once."""

    def __init__(self, kernel: WeightKernel) -> None:
        super().__init__(kernel.stored_format)
        self._kernel = kernel
        self.fused_name = kernel.fused_name
        self.row_step = kernel.row_step
        self.is_by_row = kernel.is_by_row
        self.ways: list[str] = []
        self.decoded: list[Tensor] = []

    def pack(self, stored: Tensors) -> Tensors:
        return self._kernel.pack(stored)

    def unpack(self, held: Tensors) -> Tensors:
        return self._kernel.unpack(held)

    def fused(self, inputs: Tensor, held: Tensors, bias: Tensor | None) -> Tensor:
        self.ways.append("fused")
        return self._kernel.fused(inputs, held, bias)

    def decode(self, held: Tensors, rows: slice) -> Tensor:
        self.ways.append("dense")
        self.decoded.append(self._kernel.decode(held, rows))
        return self.decoded[-1]


def recorded(operator: StoredLinear) -> RecordedKernel:
    operator.kernel = RecordedKernel(operator.kernel)
    return operator.kernel


# ---- one product, whichever way


@given(
    st.sampled_from(STORED),
    st.sampled_from([16, 48, 176]) | st.integers(1, 100),
    st.sampled_from([64, 128, 384]) | st.integers(1, 300),
    st.integers(1, 20),
    st.sampled_from(DTYPES),
    st.booleans(),
)
@settings(max_examples=120, deadline=None)
def test_fused_and_dense_multiply_by_what_the_codes_mean(
    format_name: str, rows: int, columns: int, tokens: int, dtype: torch.dtype, has_bias: bool
) -> None:
    bias = gaussian(rows, seed=2).to(dtype) if has_bias else None
    inputs = gaussian(tokens, columns, seed=1).bfloat16().to(dtype)
    for dense_from in (0, NEVER):
        operator = made(format_name, (rows, columns), dense_from, dtype, bias)
        numbers = numbers_of(operator)
        expected = inputs.float() @ numbers.t() + (0 if bias is None else bias.float())
        sizes = inputs.float().abs() @ numbers.abs().t() + 1e-3
        product = operator(inputs)
        assert product.dtype == dtype
        assert product.shape == (tokens, rows)
        # 2^-8 for each rounding to bfloat16: of products, of the result and its bias
        assert bool(((product.float() - expected).abs() <= 3 * 2**-8 * (sizes + 1)).all())


@pytest.mark.parametrize("format_name", ["int8", "int4", "int3"])
def test_dense_in_float32_is_exact(format_name: str) -> None:
    operator = made(format_name, (176, 384), dense_from=0)
    operator.matmul_dtype = torch.float32
    inputs = gaussian(5, 384, seed=1)
    expected = inputs.double() @ numbers_of(operator).double().t()
    torch.testing.assert_close(operator(inputs).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("has_bias", [False, True])
def test_float32_is_bit_for_bit_what_pytorch_computes(has_bias: bool) -> None:
    reference = nn.Linear(96, 40, bias=has_bias)
    for choice in (KernelChoice(), KernelChoice.dense_only()):
        bias = reference.bias if has_bias else None
        args = (reference.weight, bias, "fp32", CPU, torch.float32, choice)
        operator = linear_from_weight(*args)
        for inputs in (gaussian(1, 1, 96), gaussian(3, 7, 96)):
            assert torch.equal(operator(inputs), reference(inputs))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_weights_are_multiplied_as_pytorch_does_for_few_tokens(
    dtype: torch.dtype,
) -> None:
    operator = made("bf16", (40, 96), NEVER, dtype)
    inputs = gaussian(2, 96, seed=1).to(dtype)
    expected = nn.functional.linear(inputs, gaussian(40, 96).to(dtype))
    assert torch.equal(operator(inputs), expected)


def test_decoded_blocks_are_no_different_from_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    for format_name in ("int8", "int4", "int3"):
        operator = made(format_name, (144, 256), dense_from=0)
        whole = operator.kernel.decode(operator._held(), slice(0, 144))
        monkeypatch.setattr(linear, "BLOCK_WEIGHTS", {"cpu": 64 * 256})
        parts = [operator.kernel.decode(operator._held(), rows) for rows in operator.blocks()]
        assert len(parts) > 1
        assert torch.equal(torch.cat(parts, dim=1), whole)


def test_no_more_is_decoded_at_once_than_a_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "BLOCK_WEIGHTS", {"cpu": 1 << 14})
    for format_name in STORED:
        operator = made(format_name, (1000, 64), 0, torch.float16)
        kernel = recorded(operator)
        operator(gaussian(3, 64))
        assert sum(block.shape[1] for block in kernel.decoded) == 1000
        assert max(block.numel() for block in kernel.decoded) <= 1 << 14


@pytest.mark.parametrize("shape", [(256,), (1, 256), (2, 3, 256), (0, 256), (2, 0, 256)])
def test_inputs_keep_their_leading_dimensions(shape: tuple[int, ...]) -> None:
    for dense_from in (0, NEVER):
        product = made("int4", dense_from=dense_from)(gaussian(*shape))
        assert product.shape == (*shape[:-1], 64)


@pytest.mark.parametrize("format_name", ["int8", "int4"])
def test_tensors_may_begin_anywhere_in_memory(format_name: str) -> None:
    weight = gaussian(32, 128)
    shifted = {}
    for name, tensor in quantize(weight, format_name, torch.bfloat16).items():
        room = torch.empty(tensor.numel() + 1, dtype=tensor.dtype)
        shifted[name] = room[1:].view(tensor.shape).copy_(tensor)
    choice = KernelChoice({format_name: NEVER})
    args = ((32, 128), None, format_name, CPU, torch.bfloat16, choice)
    operator = linear_from_stored(shifted, *args)
    inputs = torch.empty(3 * 128 + 1, dtype=torch.bfloat16)[1:].view(3, 128).normal_()
    assert torch.equal(operator(inputs), operator(inputs.clone()))


@pytest.mark.parametrize("in_features", [8, 24, 100])
def test_int8_rows_that_vectors_do_not_fit_are_decoded(in_features: int) -> None:
    assert made("int8", (64, in_features)).is_dense(1)


@pytest.mark.parametrize("out_features", [8, 24, 100])
def test_int4_blocks_that_vectors_do_not_fit_are_decoded(out_features: int) -> None:
    assert made("int4", (out_features, 128)).is_dense(1)


# ---- which way


@pytest.mark.parametrize("format_name", ["int8", "int4"])
def test_from_the_switch_on_weights_are_decoded(format_name: str) -> None:
    if fused_name(format_name, CPU) is None:
        pytest.skip("this PyTorch has no fused kernel for the format")
    operator = made(format_name, dense_from=6, dtype=torch.bfloat16)
    kernel = recorded(operator)
    for shape in ((5, 256), (6, 256), (2, 2, 256), (2, 3, 256)):
        operator(gaussian(*shape))
    assert kernel.ways == ["fused", "dense", "fused", "dense"]


def test_the_switch_is_the_choice_s_or_else_the_default() -> None:
    choice = KernelChoice({"int8": 7})
    assert choice.switch_tokens("int8", CPU) == 7
    assert choice.switch_tokens("int4", CPU) == STORED_FORMATS["int4"].dense_from_tokens["cpu"]
    assert {KernelChoice.dense_only().switch_tokens(name, CPU) for name in STORED} == {0}


def test_the_dense_kernel_set_never_takes_a_fused_kernel() -> None:
    for format_name in ("int8", "int4", "int3"):
        weight = gaussian(64, 256)
        choice = KernelChoice.dense_only()
        operator = linear_from_weight(weight, None, format_name, CPU, torch.bfloat16, choice)
        kernel = recorded(operator)
        operator(gaussian(1, 256))
        assert set(kernel.ways) == {"dense"}


def test_weights_already_in_the_type_of_products_are_not_decoded() -> None:
    operator = made("fp32", dense_from=0)
    kernel = recorded(operator)
    operator(gaussian(50, 256))
    assert kernel.ways == ["fused"]


# ---- what is kept


@pytest.mark.parametrize("format_name", STORED)
def test_nothing_is_kept_beside_the_stored_weights(format_name: str) -> None:
    operator = made(format_name, (80, 256), 0, torch.bfloat16, gaussian(80))
    operator(gaussian(40, 256).bfloat16())
    stored_bytes = FORMATS[format_name].matrix_bytes(80, 256)
    assert operator.stored_bytes == stored_bytes
    assert held_bytes(operator) == stored_bytes + 2 * 80  # and the bias


@given(st.sampled_from(STORED), st.integers(1, 200), st.integers(1, 300))
@settings(max_examples=40, deadline=None)
def test_stored_tensors_are_what_was_quantized_and_make_the_same_operator(
    format_name: str, rows: int, columns: int
) -> None:
    weight, inputs = gaussian(rows, columns), gaussian(2, columns, seed=1)
    stored = quantize(weight, format_name, torch.bfloat16)
    given = {name: tensor.clone() for name, tensor in stored.items()}
    operator = linear_from_stored(given, (rows, columns), None, format_name, CPU, torch.bfloat16)
    back = stored_tensors(operator)
    assert back.keys() == stored.keys()
    assert all(torch.equal(back[name], stored[name]) for name in stored)
    direct = linear_from_weight(weight, None, format_name, CPU, torch.bfloat16)
    assert torch.equal(operator(inputs), direct(inputs))


# ---- parts of one operator


def parts_of_one() -> tuple[StoredLinear, list[nn.Module], RecordedKernel]:
    operator = made("int8", (96, 128))
    kernel = recorded(operator)
    return operator, fused_parts(operator, (64, 16, 16)), kernel


def expected_parts(operator: StoredLinear, inputs: Tensor) -> tuple[Tensor, ...]:
    return operator(inputs).split((64, 16, 16), dim=-1)


def test_parts_in_order_compute_once_and_keep_nothing() -> None:
    operator, parts, kernel = parts_of_one()
    inputs = gaussian(2, 3, 128)
    expected = expected_parts(operator, inputs)
    kernel.ways.clear()
    for part, wanted in zip(parts, expected, strict=True):
        assert torch.equal(part(inputs), wanted)
    assert len(kernel.ways) == 1
    assert parts[-1]._shared._product is None
    assert parts[-1]._shared._inputs is None


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 2)), min_size=1, max_size=12))
@settings(max_examples=60, deadline=None)
def test_parts_are_right_in_any_order_with_any_inputs(calls: list[tuple[int, int]]) -> None:
    operator, parts, _ = parts_of_one()
    inputs = [gaussian(1 + number, 128, seed=number) for number in range(3)]
    expected = [expected_parts(operator, each) for each in inputs]
    for part, number in calls:
        assert torch.equal(parts[part](inputs[number]), expected[number][part])


def test_equal_inputs_that_are_another_tensor_are_computed_anew() -> None:
    _, parts, kernel = parts_of_one()
    inputs = gaussian(2, 128)
    first = parts[0](inputs)
    assert first.shape == (2, 64)
    parts[1](inputs.clone())
    assert len(kernel.ways) == 2


def test_inputs_changed_in_place_are_computed_anew() -> None:
    operator, parts, _ = parts_of_one()
    with torch.inference_mode(mode=False):
        inputs = torch.randn(2, 128)
        parts[0](inputs)
        inputs.mul_(2)
        assert torch.equal(parts[1](inputs), expected_parts(operator, inputs)[1])


def test_parts_hold_the_weights_once() -> None:
    operator, parts, _ = parts_of_one()
    assert held_bytes(nn.ModuleList(parts)) == held_bytes(operator)


def test_widths_that_do_not_add_up_are_refused() -> None:
    for widths in ((64, 16), (64, 16, 16, 16), (96, 0), ()):
        with pytest.raises(InputError, match="add up to 96 output features"):
            fused_parts(made("int8", (96, 128)), widths)


# ---- which type


@given(
    st.sampled_from(["int8", "int4", "int3", "fp16", "bf16"]),
    st.integers(1, 60),
    st.sampled_from([64, 256, 384]),
    st.sampled_from([0, 4, NEVER]),
)
@settings(max_examples=60, deadline=None)
def test_what_is_asked_for_in_float32_is_computed_in_float32(
    format_name: str, tokens: int, columns: int, dense_from: int
) -> None:
    """On every processor, and whichever kernel was to be taken for so many tokens."""
    operator = made(format_name, (64, columns), dense_from)
    inputs = gaussian(tokens, columns, seed=1)
    expected = inputs.double() @ numbers_of(operator).double().t()
    sizes = inputs.double().abs() @ numbers_of(operator).double().abs().t()
    errors = (operator(inputs).double() - expected).abs()
    assert bool((errors <= 2**-22 * columns**0.5 * sizes).all())


@pytest.mark.parametrize("compute_dtype", DTYPES)
def test_the_processor_chooses_among_types_that_lose_nothing(compute_dtype: torch.dtype) -> None:
    dtype = kernels.dense_dtype(CPU, compute_dtype)
    assert dtype in (compute_dtype, torch.float32)
    if compute_dtype != torch.bfloat16 or not kernels.has_native_bf16(CPU):
        assert dtype == torch.float32
