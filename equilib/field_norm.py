"""The fast kernel of batch normalization over fields, for CPUs and GPUs without a compiler.

:class:`equilib.layers.FieldBatchNorm` has the formula that it computes, and the tests hold the two against each other.
"""

from __future__ import annotations

import math
from functools import lru_cache

import torch
from torch import Tensor

# Values that an operation chain works on at a time on a CPU: 2 MB, which stay in cache from one operation to the next.
_BLOCK = 2**19
# Columns that a channels_last matrix is widened to by laying rows side by side: vector instructions want long rows.
_COLUMNS = 2048


class _Blocks:
    """A channels_last tensor (B, C, H, W) as blocks of a matrix with C * fold columns, without a copy.

    A row of the matrix holds ``fold`` neighbouring pixels, so a value per field is repeated for its channels and folds,
    and columns are summed over both.
    """

    def __init__(self, shape: tuple[int, ...], size: int, dtype: torch.dtype, device: torch.device):
        channels = shape[1]
        pixels = math.prod(shape) // channels
        self.size, self.fields, self.fold, self.rows = size, channels // size, 1, pixels
        if device.type == "cpu":
            while pixels % (2 * self.fold) == 0 and 2 * self.fold * channels <= _COLUMNS:
                self.fold *= 2
            self.rows = max(1, _BLOCK // (self.fold * channels))
        self.columns = self.fold * channels
        self.count = pixels * size  # values per field
        options = dict(dtype=dtype, device=device)
        self._field = torch.arange(self.fields, device=device).repeat_interleave(size).repeat(self.fold)
        self.ones = torch.ones(self.columns, **options)
        rows = pixels // self.fold
        lengths = [min(self.rows, rows - start) for start in range(0, rows, self.rows)]
        self.shares = torch.tensor(lengths, **options).view(-1, 1) / (rows * self.fold * size)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """Blocks (rows, columns), views of ``x``."""
        matrix = x.permute(0, 2, 3, 1).view(-1, self.columns)
        return (matrix,) if len(matrix) <= self.rows else matrix.split(self.rows)

    def spread(self, *per_field: Tensor) -> tuple[Tensor, ...]:
        """(fields,) to (columns,), each."""
        return torch.stack(per_field).index_select(1, self._field).unbind()

    def gather(self, columns: Tensor) -> Tensor:
        """Sum (blocks, columns) over blocks and over the columns of each field: (fields,)."""
        return columns.view(-1, self.fields, self.size).sum((0, 2))


# The layers of a network ask for the same few dozen again and again.
_blocks = lru_cache(maxsize=512)(_Blocks)


def _as_image(block: Tensor) -> Tensor:
    """(rows, columns) as the channels_last image that torch's batch normalization kernels take."""
    return block.as_strided((1, block.shape[1], len(block), 1), (block.numel(), 1, block.shape[1], block.shape[1]))


def _scale_and_shift(block: Tensor, scale: Tensor, shift: Tensor, identity: tuple[Tensor, Tensor], out: Tensor) -> None:
    """Write ``block * scale + shift`` to ``out``, both in half precision, the factors in single, in one pass.

    It is torch's normalization by a mean of zero and a variance of one.
    """
    unused = scale.new_empty(0)
    torch.native_batch_norm(
        _as_image(block), scale, shift, *identity, False, 0.0, 0.0, out=(_as_image(out), unused, unused)
    )


class NormalizeFields(torch.autograd.Function):
    """Batch normalization with statistics per field, with or without a ReLU, on a channels_last tensor.

    The same passes over memory as torch's BatchNorm2d and ReLU, over blocks that stay in cache.  e2cnn's InnerBatchNorm
    gives the same numbers through a 5-D view, which costs copies and a slow reduction.

    Of activations in half precision (bfloat16 under autocast, on a CPU) sums and factors are kept in single precision:
    100,000 values need more than 8 or 11 bits.  No more than a block is ever copied, what backward needs is saved as it
    came, and each result is rounded once.
    """

    @staticmethod
    def forward(ctx, x, weight, bias, size, eps, relu):
        wide = torch.promote_types(x.dtype, torch.float32)
        blocks = _blocks(tuple(x.shape), size, wide, x.device)
        xs = blocks.split(x)
        # Running statistics that nobody reads: without them, those of half precision would come in half precision.
        identity = (None, None) if x.dtype == wide else (torch.zeros_like(blocks.ones), torch.ones_like(blocks.ones))
        # Mean and variance of each column of each block; then the law of total variance over blocks, folds and the
        # channels of a field.
        parts = [torch.batch_norm_update_stats(_as_image(part), *identity, 0.0) for part in xs]
        means, variances = (torch.stack(values) for values in zip(*parts))
        mean = blocks.gather(blocks.shares * means)
        (mean_columns,) = blocks.spread(mean)
        variance = blocks.gather(blocks.shares * (variances + (means - mean_columns).square_()))
        invstd = (variance + eps).rsqrt_()
        scale = weight * invstd
        scale_columns, shift_columns = blocks.spread(scale, bias - mean * scale)
        y = torch.empty_like(x)
        for part, out in zip(xs, blocks.split(y)):
            if x.dtype == wide:
                torch.addcmul(shift_columns, part, scale_columns, out=out)
            else:
                _scale_and_shift(part, scale_columns, shift_columns, identity, out)
            if relu:
                out.relu_()
        ctx.save_for_backward(x, y if relu else None, weight, mean, mean_columns, invstd)
        ctx.blocks = blocks
        ctx.mark_non_differentiable(mean, variance)
        return y, mean, variance

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, dy, _mean, _variance):
        x, y, weight, mean, mean_columns, invstd = ctx.saved_tensors
        blocks = ctx.blocks
        dx = torch.empty_like(x)
        dy = dy.contiguous(memory_format=torch.channels_last)
        xs, dys, dxs = blocks.split(x), blocks.split(dy), blocks.split(dx)
        ys = (None,) * len(xs) if y is None else blocks.split(y)
        sums_dyx, sums_dy = [], []  # of dy (x - mean) and dy, a row per block
        for x_part, dy_part, y_part, dx_part in zip(xs, dys, ys, dxs):
            if y_part is not None:  # dx holds the gradient before the ReLU until it is overwritten
                torch.ops.aten.threshold_backward.grad_input(dy_part, y_part, 0, grad_input=dx_part)
                dy_part = dx_part
            _, sum_dyx, sum_dy = torch.ops.aten.native_batch_norm_backward(
                _as_image(dy_part),
                _as_image(x_part),
                None,
                None,
                None,
                mean_columns,
                blocks.ones,
                True,
                0.0,
                (False, True, True),
            )
            sums_dyx.append(sum_dyx)
            sums_dy.append(sum_dy)
        sum_dyx, sum_dy = (blocks.gather(torch.stack(sums)) for sums in (sums_dyx, sums_dy))
        dweight = sum_dyx * invstd
        scale = weight * invstd
        slope = scale * invstd * dweight / -blocks.count
        offset = scale * sum_dy / -blocks.count - slope * mean
        scale, slope, offset = blocks.spread(scale, slope, offset)
        half = x.dtype != offset.dtype
        scratch, other = (torch.empty(xs[0].shape, dtype=offset.dtype, device=x.device) for _ in range(2))
        for x_part, dy_part, dx_part in zip(xs, dys if y is None else dxs, dxs):
            part, dy_wide = scratch[: len(x_part)], other[: len(x_part)]
            torch.addcmul(offset, part.copy_(x_part) if half else x_part, slope, out=part)
            if half:
                dx_part.copy_(part.addcmul_(dy_wide.copy_(dy_part), scale))
            else:
                torch.addcmul(part, dy_part, scale, out=dx_part)
        return dx, dweight, sum_dy, None, None, None
