"""Cut recordings into pieces, and write copies at other speeds as other speakers.

For corpora with few or long recordings of each speaker: SSRL needs several utterances of a speaker to find that they
belong together. A copy at another speed has another pitch and other formants, and counts as another speaker.
"""

import argparse
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly
from tqdm import tqdm

from dinosr_plugin.data.conversion import encode_sound
from dinosr_plugin.data.manifest import read_manifest
from dinosr_plugin.files.output import output, write_bytes

RATE = 16000


def pieces_of(wave: np.ndarray, seconds: float) -> list[np.ndarray]:
    """(T,) -> pieces of equal length, the number of them that makes it nearest to ``seconds``."""
    return np.array_split(wave, max(1, round(len(wave) / (seconds * RATE))))


def at_speed(wave: np.ndarray, percent: int) -> np.ndarray:
    """(T,) -> (about 100 T / percent,): pitch and tempo change together, as on a tape."""
    return wave if percent == 100 else resample_poly(wave, 100, percent)


def to_int16(wave: np.ndarray) -> np.ndarray:
    return (wave * 32768).round().clip(-32768, 32767).astype(np.int16)


def target(out: Path, row: str, percent: int, number: int) -> Path:
    """``OUT/SPEAKER/.../FILE-NUMBER.flac``; the names of speaker and file end in the speed, unless it is 100."""
    *folders, name = Path(row).with_suffix("").parts
    speed = "" if percent == 100 else f"-speed{percent}"
    speaker = [folder + speed for folder in folders[:1]]
    return Path(out, *speaker, *folders[1:], f"{name}-{number}{speed}.flac")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("manifest", type=Path, metavar="MANIFEST", help="a .tsv file; its folders name the speakers")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder for the pieces")
    parser.add_argument("--seconds", type=float, default=4, metavar="S", help="length of a piece, about (default: 4)")
    parser.add_argument("--speeds", type=int, nargs="*", default=[], metavar="PERCENT", help="of copies: 90 110")
    options = parser.parse_args()
    split = read_manifest(options.manifest)
    for row in tqdm(split.utterances, desc="cutting", unit="file"):
        wave, _ = soundfile.read(split.root / row.path, dtype="float32")
        for percent in [100, *options.speeds]:
            for number, piece in enumerate(pieces_of(at_speed(wave, percent), options.seconds)):
                with output(target(options.out, row.path, percent, number), "OUT") as unfinished:
                    write_bytes(unfinished, encode_sound(to_int16(piece), "flac"))


if __name__ == "__main__":
    main()
