"""Federated averaging in NumPy: a loop over clients, each by the training of ``kernel_numpy``, and their weighted mean.

``epochs`` of a request are rounds, one local epoch each. The request says how many examples each client has.
"""

from __future__ import annotations

import numpy as np
from kernel_numpy import Floats, NumpyPeer
from kernel_peer import Job, serve


class FedAvgPeer(NumpyPeer):
    def prepare(self, job: Job) -> None:
        super().prepare(job)
        self.server = {layout: np.zeros_like(kernel) for layout, kernel in self.kernels.items()}
        self.server_bias = np.zeros_like(self.bias)
        self.means = {layout: np.empty_like(kernel) for layout, kernel in self.kernels.items()}
        self.mean_bias = np.empty_like(self.bias)

    def train(self, layout: str, epochs: int) -> None:
        self.server[layout][:] = 0
        self.server_bias[:] = 0
        for _ in range(epochs):
            self.round(layout)

    def round(self, layout: str) -> None:
        kernel, server, mean = self.kernels[layout], self.server[layout], self.means[layout]
        examples, size = len(self.job.y), self.job.client_examples
        mean[:] = 0
        self.mean_bias[:] = 0
        for first in range(0, examples, size):
            last = min(first + size, examples)
            np.copyto(kernel, server)
            np.copyto(self.bias, self.server_bias)
            for start in range(first, last, self.job.batch):
                end = min(start + self.job.batch, last)
                self.step(layout, self.job.x[start:end], self.targets[start:end])
            share = np.float32((last - first) / examples)
            kernel *= share
            mean += kernel
            self.bias *= share
            self.mean_bias += self.bias
        np.copyto(server, mean)
        np.copyto(self.server_bias, self.mean_bias)

    def weights(self, layout: str) -> tuple[Floats, Floats]:
        kernel = self.server[layout]
        return kernel if layout == "CF" else kernel.T, self.server_bias

    def evaluate(self, layout: str) -> tuple[int, float]:
        raise NotImplementedError(layout)


if __name__ == "__main__":
    serve(FedAvgPeer())
