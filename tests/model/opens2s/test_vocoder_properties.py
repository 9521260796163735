"""What the vocoder promises beyond the reference: its reach, its clock, its Fourier transforms."""

from __future__ import annotations

import pytest
import torch

from model.decoder.config import RELEASED
from model.decoder.decoder import Decoder
from model.decoder.fourier import istft, stft
from model.decoder.receptive_field import F0_FRAMES, vocoder_frames
from model.decoder.source import SourceDraws
from model.decoder.weights import build, load_decoder
from tests.support.opens2s_fixtures import Fixtures


@pytest.fixture(scope="module")
def decoder(bundled: Fixtures) -> Decoder:
    return load_decoder(bundled.decoder)


def random_mel(decoder: Decoder, frames: int, batch: int = 1) -> torch.Tensor:
    shape = (batch, decoder.config.flow.output_size, frames)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
def test_no_sample_depends_on_more_frames_than_the_computed_reach(decoder: Decoder) -> None:
    frame, reach = decoder.config.vocoder.frame_samples, vocoder_frames(decoder.config.vocoder)
    frames = 3 * reach + 10
    mel = random_mel(decoder, frames)
    source = torch.randn((1, frames * frame), generator=torch.Generator().manual_seed(1)) * 0.1
    whole = decoder.vocoder(mel, source)
    start, stop = reach + 3, 2 * reach + 5
    piece = decoder.vocoder(mel[:, :, :stop][:, :, 3:], source[:, 3 * frame : stop * frame])
    # Everything farther than the reach from both ends of the piece is as in the whole; nearer, it is not.
    inner = slice((start - 3) * frame, (stop - reach - 3) * frame)
    torch.testing.assert_close(piece[:, inner], whole[:, start * frame : (stop - reach) * frame], rtol=0, atol=2e-5)
    near = slice((stop - 3 - reach // 2) * frame, None)
    assert float((piece[:, near] - whole[:, (stop - reach // 2) * frame : stop * frame]).abs().max()) > 1e-4


@torch.inference_mode()
def test_pitch_depends_on_five_frames_to_each_side(decoder: Decoder) -> None:
    mel = random_mel(decoder, 40)
    whole, piece = decoder.vocoder.predict_f0(mel), decoder.vocoder.predict_f0(mel[:, :, 8:30])
    inner = slice(F0_FRAMES, -F0_FRAMES)
    torch.testing.assert_close(piece[:, inner], whole[:, 8:30][:, inner], rtol=0, atol=1e-4)


def test_the_released_vocoder_reaches_fourteen_frames() -> None:
    assert vocoder_frames(RELEASED.vocoder) == 14


@torch.inference_mode()
def test_a_source_continued_by_its_clock_is_the_source_in_one_piece(decoder: Decoder) -> None:
    config = decoder.config.vocoder
    f0 = 80 + 400 * torch.rand((1, 600), generator=torch.Generator().manual_seed(2))
    f0[:, 100:150] = 0  # unvoiced
    draws = SourceDraws.draw(config, 600 * config.frame_samples, torch.Generator().manual_seed(3))
    whole, clock = decoder.vocoder.excite(f0, draws)
    cut = 333
    noise = draws.noise[:, :, cut * config.frame_samples :]
    rest, _ = decoder.vocoder.excite(f0[:, cut:], SourceDraws(draws.phase, noise), clock[:, cut])
    torch.testing.assert_close(rest, whole[:, cut * config.frame_samples :], rtol=0, atol=1e-6)


@torch.inference_mode()
def test_a_batch_equals_its_rows(decoder: Decoder) -> None:
    mel = random_mel(decoder, 12, batch=3)
    shape = (3, 12 * decoder.config.vocoder.frame_samples)
    source = 0.1 * torch.randn(shape, generator=torch.Generator().manual_seed(1))
    together = decoder.vocoder(mel, source)
    for row in range(3):
        alone = decoder.vocoder(mel[row : row + 1], source[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize(("n_fft", "hop"), [(16, 4), (32, 8)])
def test_the_fourier_transforms_are_torchs(n_fft: int, hop: int) -> None:
    signal = torch.randn((2, 40 * hop), generator=torch.Generator().manual_seed(0))
    window = torch.hann_window(n_fft)
    expected = torch.stft(signal, n_fft, hop, window=window, return_complex=True)
    found = stft(signal, n_fft, hop)
    torch.testing.assert_close(found, torch.cat((expected.real, expected.imag), 1), rtol=0, atol=1e-5)
    # any columns, not only those of a signal: the first and last bin's imaginary parts are ignored
    parts = torch.randn((2, 2, n_fft // 2 + 1, 21), generator=torch.Generator().manual_seed(1))
    back = torch.istft(torch.complex(parts[0], parts[1]), n_fft, hop, window=window)
    torch.testing.assert_close(istft(parts[0], parts[1], n_fft, hop), back, rtol=0, atol=1e-5)


@torch.inference_mode()
def test_the_vocoder_never_looks_at_values() -> None:
    """Meta tensors have none: whatever asked for one (and so would stop a CUDA graph) would raise here. Full size."""
    _, vocoder = build(RELEASED)
    mel = torch.empty((2, vocoder.config.in_channels, 21), device="meta")
    samples = 21 * vocoder.config.frame_samples
    shape = (2, vocoder.config.num_harmonics)
    draws = SourceDraws(torch.empty(shape, device="meta"), torch.empty((*shape, samples), device="meta"))
    source, clock = vocoder.excite(vocoder.predict_f0(mel), draws, torch.empty(2, device="meta", dtype=torch.float64))
    assert clock.shape == (2, 22)
    assert vocoder(mel, source).shape == (2, samples)


@torch.inference_mode()
def test_pitch_and_source_stay_in_float32_when_the_trunk_does_not(bundled: Fixtures, decoder: Decoder) -> None:
    half = load_decoder(bundled.decoder, dtype=torch.bfloat16)
    mel = random_mel(decoder, 30)
    torch.testing.assert_close(half.vocoder.predict_f0(mel), decoder.vocoder.predict_f0(mel), rtol=0, atol=0)
    exact, source = decoder.vocode(mel)
    rough, half_source = half.vocode(mel)
    torch.testing.assert_close(half_source, source, rtol=0, atol=0)
    assert rough.dtype == torch.float32
    assert float((rough - exact).square().mean() / exact.square().mean()) < 0.05
