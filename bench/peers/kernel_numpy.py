"""Softmax SGD in NumPy, in both layouts of the weights: "FC" (features, classes) and "CF" (classes, features).

Everything is written into buffers made before; rate and batch size are folded into the (batch, classes) gradient, and
the scale of 8-bit features into the (batch, classes) arrays, so that the large arrays are touched as seldom as NumPy
allows. Labels are one-hot rows made before: subtracting them is faster than indexing. Reductions call their ufunc,
which saves the wrapper in Python.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from kernel_peer import Job, Peer, serve

Floats = npt.NDArray[np.float32]


class NumpyPeer(Peer):
    def prepare(self, job: Job) -> None:
        self.job = job
        f, c, b, n = job.features, job.classes, min(job.batch, len(job.y)), len(job.y)
        self.kernels = {"FC": np.zeros((f, c), np.float32), "CF": np.zeros((c, f), np.float32)}
        self.gradients = {layout: np.empty_like(kernel) for layout, kernel in self.kernels.items()}
        self.bias = np.zeros(c, np.float32)
        self.bias_gradient = np.empty(c, np.float32)
        self.gathered = np.empty((b, f), job.x.dtype)
        self.converted = np.empty((b, f), np.float32)
        self.z = np.empty((b, c), np.float32)
        self.row = np.empty((b, 1), np.float32)
        self.targets = np.zeros((n, c), np.float32)
        self.targets[np.arange(n), job.y] = 1
        self.gathered_targets = np.empty((b, c), np.float32)
        self.scale = np.float32(job.scale)
        self.all_x = np.empty((n, f), np.float32) if job.x.dtype != np.float32 else job.x
        self.all_z = np.empty((n, c), np.float32)
        self.all_row = np.empty(n, np.float32)
        self.predicted = np.empty(n, np.intp)
        self.all_index = np.arange(n)

    def batch(self, order: npt.NDArray[np.uint32] | None, first: int) -> tuple[Floats, Floats]:
        x, targets, size = self.job.x, self.targets, self.job.batch
        if order is None:
            rows, wanted = x[first : first + size], targets[first : first + size]
        else:
            chosen = order[first : first + size]
            rows = x.take(chosen, 0, self.gathered[: len(chosen)], "clip")
            wanted = targets.take(chosen, 0, self.gathered_targets[: len(chosen)], "clip")
        if rows.dtype != np.float32:
            converted = self.converted[: len(rows)]
            np.copyto(converted, rows)
            rows = converted
        return rows, wanted

    def train(self, layout: str, epochs: int) -> None:
        self.kernels[layout][:] = 0
        self.bias[:] = 0
        for epoch in range(epochs):
            order = self.job.order_of(epoch)
            for first in range(0, len(self.job.y), self.job.batch):
                self.step(layout, *self.batch(order, first))

    def step(self, layout: str, x: Floats, targets: Floats) -> None:
        size = len(x)
        kernel, gradient, z, row = self.kernels[layout], self.gradients[layout], self.z[:size], self.row[:size]
        np.matmul(x, kernel if layout == "FC" else kernel.T, z)
        if self.scale != 1:
            z *= self.scale
        z += self.bias
        np.maximum.reduce(z, 1, None, row, True)
        z -= row
        np.exp(z, z)
        np.add.reduce(z, 1, None, row, True)
        z /= row
        z -= targets
        z *= np.float32(self.job.rate / size)
        np.add.reduce(z, 0, None, self.bias_gradient)
        self.bias -= self.bias_gradient
        if self.scale != 1:
            z *= self.scale
        if layout == "FC":
            np.matmul(x.T, z, gradient)
        else:
            np.matmul(z.T, x, gradient)
        kernel -= gradient

    def weights(self, layout: str) -> tuple[Floats, Floats]:
        kernel = self.kernels[layout]
        return kernel if layout == "CF" else kernel.T, self.bias

    def evaluate(self, layout: str) -> tuple[int, float]:
        x, y, z, row = self.all_x, self.job.y, self.all_z, self.all_row
        if x is not self.job.x:
            np.copyto(x, self.job.x)
        kernel = self.kernels[layout]
        np.matmul(x, kernel if layout == "FC" else kernel.T, out=z)
        if self.scale != 1:
            z *= self.scale
        z += self.bias
        np.argmax(z, axis=1, out=self.predicted)
        confusion = np.bincount(y * np.intp(self.job.classes) + self.predicted, minlength=self.job.classes**2)
        z -= z[self.all_index, self.predicted][:, None]
        shifted = z[self.all_index, y]
        np.exp(z, out=z)
        np.sum(z, axis=1, out=row)
        np.log(row, out=row)
        row -= shifted
        return int(confusion[:: self.job.classes + 1].sum()), float(row.sum(dtype=np.float64))


if __name__ == "__main__":
    serve(NumpyPeer())
