"""scikit-learn's ``SGDClassifier``: one binary logistic regression for each class, example by example.

Not the same optimum (one against all, no batches), but the same number of products for an example. It has no 8-bit
input: the features are converted before the time is taken.
"""

from __future__ import annotations

import numpy as np
from kernel_peer import Job, Peer, serve
from sklearn.linear_model import SGDClassifier


class SklearnPeer(Peer):
    def prepare(self, job: Job) -> None:
        self.job = job
        self.x = job.x if job.x.dtype == np.float32 else job.x.astype(np.float32) * np.float32(job.scale)
        self.classes = np.arange(job.classes)

    def train(self, layout: str, epochs: int) -> None:  # noqa: ARG002 (one layout)
        model = SGDClassifier(
            loss="log_loss",
            penalty=None,
            learning_rate="constant",
            eta0=self.job.rate,
            shuffle=self.job.orders is not None,
            random_state=0,
        )
        for _ in range(epochs):
            model.partial_fit(self.x, self.job.y, classes=self.classes)


if __name__ == "__main__":
    serve(SklearnPeer())
