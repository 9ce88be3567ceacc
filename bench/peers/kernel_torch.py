"""Softmax SGD in PyTorch as one would write it: ``nn.Linear``, ``cross_entropy``, ``optim.SGD``, one thread."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import torch
from kernel_peer import Job, Peer, serve
from torch import nn
from torch.nn import functional

torch.set_num_threads(1)


class TorchPeer(Peer):
    def prepare(self, job: Job) -> None:
        self.job = job
        self.x = torch.from_numpy(job.x)
        self.y = torch.from_numpy(job.y.astype(np.int64))
        self.orders = None if job.orders is None else torch.from_numpy(job.orders.astype(np.int64))
        self.layer = nn.Linear(job.features, job.classes)
        self.optimizer = torch.optim.SGD(self.layer.parameters(), lr=job.rate)
        size = min(job.batch, len(job.y))
        self.gathered = torch.empty((size, job.features), dtype=self.x.dtype)
        self.converted = torch.empty((size, job.features), dtype=torch.float32)

    def train(self, layout: str, epochs: int) -> None:  # noqa: ARG002 (one layout)
        with torch.no_grad():
            for parameter in self.layer.parameters():
                parameter.zero_()
        for epoch in range(epochs):
            order = None if self.orders is None else self.orders[epoch % len(self.orders)]
            for first in range(0, len(self.y), self.job.batch):
                self.step(order, first)

    def step(self, order: torch.Tensor | None, first: int) -> None:
        last = min(first + self.job.batch, len(self.y))
        if order is None:
            x, y = self.x[first:last], self.y[first:last]
        else:
            chosen = order[first:last]
            x = torch.index_select(self.x, 0, chosen, out=self.gathered[: last - first])
            y = self.y[chosen]
        if x.dtype != torch.float32:
            x = self.converted[: last - first].copy_(x).mul_(self.job.scale)
        self.optimizer.zero_grad(set_to_none=True)
        functional.cross_entropy(self.layer(x), y).backward()
        self.optimizer.step()

    def weights(self, layout: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:  # noqa: ARG002
        return self.layer.weight.detach().numpy(), self.layer.bias.detach().numpy()


if __name__ == "__main__":
    serve(TorchPeer())
