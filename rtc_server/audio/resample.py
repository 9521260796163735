"""Sample-rate conversion of a stream, over FFmpeg's resampler (through PyAV, which WebRTC needs anyway)."""

from __future__ import annotations

from errno import EAGAIN

import numpy as np
from av import AudioFrame, FFmpegError
from av.filter import Graph

from model.interface import Pcm16

EMPTY = np.zeros(0, np.int16)


class StreamResampler:
    """Converts one stream of int16 mono PCM from `in_rate` to `out_rate` Hz, in pieces of any length.

    The pieces joined are what the whole stream would have given. At equal rates it hands its input through."""

    def __init__(self, in_rate: int, out_rate: int) -> None:
        self.in_rate = in_rate
        self.out_rate = out_rate
        self._graph: Graph | None = None

    def resample(self, pcm: Pcm16) -> Pcm16:
        """The next piece, int16 mono [samples]; what comes back may lag by about a millisecond."""
        if self.in_rate == self.out_rate or not len(pcm):
            return pcm
        if self._graph is None:
            self._graph = _graph(self.in_rate, self.out_rate)
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(pcm).reshape(1, -1), format="s16", layout="mono")
        frame.sample_rate = self.in_rate
        return _pushed(self._graph, frame)

    def flush(self) -> Pcm16:
        """What is still inside. The stream is over; later pieces start a new one."""
        graph, self._graph = self._graph, None
        return EMPTY if graph is None else _pushed(graph, None)


def _graph(in_rate: int, out_rate: int) -> Graph:
    """What `av.AudioResampler` builds, but without threads: it would start one per CPU for every stream, and its object
    lies in a reference cycle, so that they live on until the garbage collector comes round."""
    graph = Graph()
    graph.threads = 1  # the caller's own
    source = graph.add("abuffer", sample_rate=str(in_rate), sample_fmt="s16", channel_layout="mono")
    wanted = graph.add("aformat", sample_rates=str(out_rate), sample_fmts="s16", channel_layouts="mono")
    source.link_to(wanted)
    wanted.link_to(graph.add("abuffersink"))
    graph.configure()
    return graph


def _pushed(graph: Graph, frame: AudioFrame | None) -> Pcm16:
    graph.push(frame)
    pieces = []
    while True:
        try:
            piece = graph.pull()
        except EOFError:
            break
        except FFmpegError as error:
            if error.errno != EAGAIN:
                raise
            break
        assert isinstance(piece, AudioFrame)
        pieces.append(np.asarray(piece.to_ndarray(), np.int16).reshape(-1))
    if len(pieces) == 1:
        return pieces[0]
    return np.concatenate(pieces) if pieces else EMPTY
