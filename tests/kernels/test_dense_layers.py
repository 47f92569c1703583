"""Dense layers, compared with NumPy in double precision."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nfm.kernels.layers import ROWS, add_products, apply_layer, make_panels

SIZES = st.integers(1, 70)


def blocks(rows: int, columns: int) -> np.ndarray:
    """Return whole blocks of sevens for these rows, and one more block that must stay unchanged."""
    return np.full((-(-rows // ROWS) * ROWS + ROWS, columns), 7, np.float32)


@given(st.integers(0, 40), SIZES, SIZES, st.integers(0, 5), st.booleans(), st.integers(0, 2**32 - 1))
def test_a_layer_equals_numpys_matrix_product(
    rows: int, inputs: int, units: int, more: int, rectify: bool, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    kernel, bias = draw.normal(size=(inputs, units)).astype(np.float32), draw.normal(size=units).astype(np.float32)
    weights = make_panels(kernel, bias)
    x, out = blocks(rows, inputs + more), blocks(rows, weights[1].size)
    x[:rows] = draw.normal(size=(rows, inputs + more))
    apply_layer(x, *weights, 0 if rectify else -np.inf, out, rows)
    wanted = x[:rows, :inputs].astype(float) @ kernel.astype(float) + bias
    np.testing.assert_allclose(out[:rows, :units], np.maximum(wanted, 0) if rectify else wanted, atol=2e-5)
    assert (out[:rows, units:] == 0).all()  # the next layer may read them
    assert (out[-ROWS:] == 7).all()


@given(st.integers(0, 20), SIZES, st.integers(1, 5), st.integers(0, 3), st.integers(0, 3), st.integers(0, 2**32 - 1))
def test_products_are_added_to_the_output(
    rows: int, inputs: int, outputs: int, before: int, after: int, seed: int
) -> None:
    draw = np.random.default_rng(seed)
    kernel = draw.normal(size=(outputs, inputs)).astype(np.float32)
    x = draw.normal(size=(rows + 1, before + inputs + after)).astype(np.float32)
    out = np.full((rows + 1, outputs), 7, np.float32)
    add_products(x, before, kernel, out, rows)
    wanted = 7 + x[:rows, before : before + inputs].astype(float) @ kernel.T.astype(float)
    np.testing.assert_allclose(out[:rows], wanted, atol=2e-5)
    assert (out[rows:] == 7).all()


@pytest.mark.parametrize("least", [0, -np.inf])
def test_nan_stays_in_its_row(least: float) -> None:
    weights = make_panels(np.ones((3, 2), np.float32), np.zeros(2, np.float32))
    x, out = np.ones((ROWS, 3), np.float32), np.empty((ROWS, weights[1].size), np.float32)
    x[1, 2], x[2, 0] = np.nan, np.inf
    apply_layer(x, *weights, least, out, ROWS)
    assert np.isnan(out[1, :2]).all()
    assert (out[2, :2] == np.inf).all()
    assert (out[[0, *range(3, ROWS)], :2] == 3).all()


def test_the_sums_of_a_row_do_not_depend_on_its_position() -> None:
    draw = np.random.default_rng(1)
    weights = make_panels(draw.normal(size=(37, 45)).astype(np.float32), np.zeros(45, np.float32))
    kernel = draw.normal(size=(3, 37)).astype(np.float32)
    x = np.tile(draw.normal(size=37).astype(np.float32), (5 * ROWS, 1))
    out, sums = np.empty((len(x), weights[1].size), np.float32), np.zeros((len(x), 3), np.float32)
    apply_layer(x, *weights, 0, out, len(x))
    add_products(x, 0, kernel, sums, len(x))
    assert (out == out[0]).all()
    assert (sums == sums[0]).all()


def test_registers_without_avx512(tmp_path: Path) -> None:
    check = """
import llvmlite.binding
llvmlite.binding.get_host_cpu_features = dict  # no features
from nfm.kernels import layers
import tests.conftest  # the settings of hypothesis
import tests.kernels.test_dense_layers as tests
assert layers.LANES == 8
tests.test_a_layer_equals_numpys_matrix_product()
tests.test_nan_stays_in_its_row(0)
import tests.kernels.test_pooling as pooling
for dtype in ("float32", "float16"):
    pooling.test_pooling_equals_the_equations(70, dtype)
"""
    # A cache of its own: numba identifies a machine by its processor, but this process uses other registers.
    older = {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma", "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", check],
        cwd=Path(__file__).parents[2],
        env=os.environ | older,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
