"""Embeddings of Resemblyzer's GE2E encoder, which was trained with labels on far more speech: an upper mark.

    pip install resemblyzer webrtcvad-wheels
    python examples/ssrl/ge2e.py MANIFEST TRIALS OUT

OUT becomes an embedding folder of the recordings and parts in the trial list, as `dinosr speaker embed` writes it.
"""

import sys

import scipy.ndimage
from tqdm import tqdm

from dinosr_plugin.evaluation.speakers.recordings import read_recordings, select
from dinosr_plugin.evaluation.speakers.trials import names_of, read_trials
from dinosr_plugin.units.store import EMBEDDINGS, FeatureWriter

RATE, WIDTH = 16000, 256


def main(manifest: str, trials: str, out: str) -> None:
    sys.modules["scipy.ndimage.morphology"] = scipy.ndimage  # Resemblyzer 0.1.4 imports it; SciPy has removed it
    from resemblyzer import VoiceEncoder, preprocess_wav

    recordings = select(read_recordings(manifest), names_of(read_trials(trials)), trials)
    names = [recording.name for recording in recordings]
    encoder = VoiceEncoder("cpu", verbose=False)
    source = {"kind": EMBEDDINGS, "model": "Resemblyzer GE2E"}
    with FeatureWriter(out, 1.0, 0.0, WIDTH, "float32", source, names, [1] * len(names)) as writer:
        for row, recording in enumerate(tqdm(recordings, unit="recording")):
            wave = preprocess_wav(recording.load(), RATE)
            writer.add(row, encoder.embed_utterance(wave)[None])
        writer.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
