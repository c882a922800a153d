"""Write recordings in many codecs and containers by libsndfile or FFmpeg."""

from pathlib import Path
from types import SimpleNamespace

import av
import numpy as np
import soundfile

RATE = 16000

# File name -> format and subtype of libsndfile, or container and codec of FFmpeg with its sample rate.
BY_LIBSNDFILE = {
    "pcm16.wav": ("WAV", "PCM_16"),
    "pcm8.wav": ("WAV", "PCM_U8"),
    "pcm24.wav": ("WAV", "PCM_24"),
    "pcm32.wav": ("WAV", "PCM_32"),
    "float.wav": ("WAV", "FLOAT"),
    "double.wav": ("WAV", "DOUBLE"),
    "mulaw.wav": ("WAV", "ULAW"),
    "alaw.wav": ("WAV", "ALAW"),
    "adpcm.wav": ("WAV", "IMA_ADPCM"),
    "gsm.wav": ("WAV", "GSM610"),
    "extensible.wav": ("WAVEX", "PCM_16"),
    "extensible24.wav": ("WAVEX", "PCM_24"),
    "a.rf64": ("RF64", "PCM_16"),
    "a.w64": ("W64", "PCM_16"),
    "a.aiff": ("AIFF", "PCM_16"),
    "mulaw.au": ("AU", "ULAW"),
    "a.sph": ("NIST", "PCM_16"),
    "a.caf": ("CAF", "ALAC_16"),
    "a.flac": ("FLAC", "PCM_16"),
    "pcm24.flac": ("FLAC", "PCM_24"),
    "a.ogg": ("OGG", "VORBIS"),
    "a.opus": ("OGG", "OPUS"),
    "a.mp3": ("MP3", "MPEG_LAYER_III"),
}
BY_FFMPEG = {
    "a.m4a": ("ipod", "aac", RATE),
    "alac.m4a": ("ipod", "alac", RATE),
    "a.aac": ("adts", "aac", RATE),
    "a.mp4": ("mp4", "aac", 44100),
    "a.mov": ("mov", "pcm_s16le", RATE),
    "a.3gp": ("3gp", "libopencore_amrnb", 8000),
    "a.amr": ("amr", "libopencore_amrnb", 8000),
    "a.webm": ("webm", "libopus", 48000),
    "a.mkv": ("matroska", "libmp3lame", RATE),
    "a.wma": ("asf", "wmav2", RATE),
    "mp3.wav": ("wav", "libmp3lame", RATE),
    "other.mp3": ("mp3", "libmp3lame", RATE),
    "piped.mp3": ("mp3", "libmp3lame", RATE),
    "piped.flac": ("flac", "flac", RATE),
}
CODECS = [*BY_LIBSNDFILE, *BY_FFMPEG]
# Files that libsndfile cannot read, or reads wrongly.
WHOLE = [name for name in (*BY_FFMPEG, "gsm.wav") if name != "other.mp3"]


def speech(seconds: float = 2.0) -> np.ndarray:
    """Return a gliding tone in noise after initial silence, (T,), full scale 1."""
    time = np.arange(round(seconds * RATE)) / RATE
    noise = np.random.default_rng(1).standard_normal(len(time))
    wave = 0.2 * np.sin(2 * np.pi * (300 + 80 * time) * time) + 0.03 * noise
    return np.where(time < 0.05, 0, wave).astype(np.float32)


def write_codec(folder: Path, name: str, waveform: np.ndarray) -> Path:
    """Write a mono waveform to a file named in CODECS; headers of piped files have no length."""
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.name in BY_LIBSNDFILE:
        form, subtype = BY_LIBSNDFILE[path.name]
        soundfile.write(path, waveform, RATE, format=form, subtype=subtype)
        return path
    form, codec, rate = BY_FFMPEG[path.name]
    file = path.open("wb")
    target = SimpleNamespace(write=file.write) if path.name.startswith("piped") else file
    with file, av.open(target, "w", format=form) as container:
        stream = container.add_stream(codec, rate=rate, layout="mono")
        if codec == "wmav2":
            stream.bit_rate = 32_000
        whole = np.rint(waveform * 32767).astype(np.int16)[None]
        frame = av.AudioFrame.from_ndarray(whole, format="s16", layout="mono")
        frame.sample_rate, frame.pts = RATE, 0
        resampler, fifo = av.AudioResampler(stream.codec_context.format, "mono", rate), av.AudioFifo()
        for piece in (*resampler.resample(frame), *resampler.resample(None)):
            fifo.write(piece)
        while (piece := fifo.read(stream.codec_context.frame_size or 1024, partial=True)) is not None:
            container.mux(stream.encode(piece))
        container.mux(stream.encode(None))
    return path
