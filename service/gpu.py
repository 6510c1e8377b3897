"""Whether the GPU still computes: checked whenever a run on it has failed.

    gpu = Gpu()
    Engine(..., failed=gpu.failed)       # told of every run that fails, on CPUs too
    gpu.fault                            # why nothing runs on it any more, in a line; or None

After some errors (an illegal address, a lost device, a driver that was reset) every further CUDA
call of the process fails, and only another process can create sessions again. So the affected
process ends (``service.worker``), and refuses requests until then (``service.state``). Source:
CUDA's runtime API, cudaErrorIllegalAddress and similar errors.
"""

from __future__ import annotations

import logging
import threading

import numpy as np

from service.models.model import IMAGE_SHAPE, Model
from service.models.runtime import CUDA, first_line

log = logging.getLogger(__name__)


class Gpu:
    """``fault`` is why the GPU no longer computes for this process; None where it does, or none is.

    There is no way back.
    """

    def __init__(self) -> None:
        self.fault: str | None = None
        self._trying = threading.Lock()

    def failed(self, model: Model, error: Exception) -> None:
        """Look into it that a run of ``model`` has raised ``error``; returns at once.

        In a thread that nobody waits for, as a GPU that fails may as well hang.
        """
        if model.provider == CUDA and self.fault is None:
            threading.Thread(target=self._try, args=(model, error), daemon=True).start()

    def _try(self, model: Model, error: Exception) -> None:
        """Run one blank picture: where that works, it was the batch that failed, and not the GPU.

        Which errors stay, ONNX Runtime does not say, and CUDA's numbers are not in all of its
        messages. But after one that stays every run fails; and after one that does not, such as
        want of memory for a large batch, the smallest run goes well: it needs no more memory than
        it was given when the model was loaded. To end then would take the small requests too, and
        the next large one would fail again.
        """
        with self._trying:  # of several that fail at a time one is enough
            if self.fault is not None:
                return
            try:
                model.run(np.zeros((1, *IMAGE_SHAPE), np.uint8))
            except Exception:  # its bindings raise a dozen unrelated types
                self.fault = f"the GPU has failed: {first_line(error)}"
                log.error("%s; this worker ends, and another starts", self.fault)
