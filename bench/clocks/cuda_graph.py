"""CUDA events around the replay of a CUDA graph of many calls: no CPU overhead."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from toolkit.bench.clocks import Call, Clock, Timer
from toolkit.bench.clocks.cuda_events import interval_timer, repeated


class CudaGraph:
    """Replay of calls captured in a CUDA graph; the calls must support capture."""

    on_device = True

    def timer(self, calls: Sequence[Call]) -> Timer:
        stream = torch.cuda.current_stream()
        try:
            return interval_timer(calls, captured)
        except BaseException:
            torch.cuda.set_stream(stream)  # a failed capture does not restore the stream
            raise


def captured(calls: Sequence[Call], count: int) -> Call:
    """The replay of a CUDA graph of `count` calls, in rotation."""
    graph, side_stream = torch.cuda.CUDAGraph(), torch.cuda.Stream()
    side_stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side_stream):
        for call in calls:  # one-time setup on this stream must not be captured
            call()
    torch.cuda.current_stream().wait_stream(side_stream)
    with torch.cuda.graph(graph):
        repeated(calls, count)()
    return graph.replay


PLUGIN: Clock = CudaGraph()
