"""Training or validation: a hash decides for each file or speaker."""

import hashlib
from collections.abc import Collection

from ...errors import UserError
from ..audio_files import without_suffix

TRAIN, VALID = "train", "valid"
USUAL_SHARE = 0.05


def split_keys(paths: list[str], split_by: str, speakers: dict[str, str]) -> list[str]:
    """What is assigned to training or validation as a whole: each file, or its speaker.

    Raises UserError for files without a speaker.
    """
    if split_by == "file":
        return [without_suffix(path) for path in paths]  # --convert changes the suffix, and must not change the split
    if flat := [path for path in paths if not speakers[path]]:
        advice = "put the files of each speaker into one folder, give --speakers FILE, or use --split-by file"
        raise UserError(f"{flat[0]} is not in a speaker's folder ({len(flat)} such file(s)); {advice}")
    return [speakers[path] for path in paths]


def usual_share(keys: list[str], split_by: str, seed: int) -> tuple[float, list[str]]:
    """(share, notes): ``USUAL_SHARE``, or of few files or speakers the smallest share that leaves no split empty."""
    numbers = sorted(hash_number(key, seed) for key in set(keys))
    if len(numbers) == 1:
        return 0.0, [f"only one {split_by}, so that there is no valid.tsv"]
    if numbers[0] < USUAL_SHARE < numbers[-1]:
        return USUAL_SHARE, []
    share, empty = round(middle(numbers), 4), VALID if numbers[0] >= USUAL_SHARE else TRAIN
    what = f"--valid-share {share}, because {USUAL_SHARE} of {len(numbers)} {split_by}(s) leaves {empty} empty"
    return share, [f"{what}; give it to keep the split when files are added"]


def split_names(keys: list[str], split_by: str, valid_share: float, seed: int) -> list[str]:
    """``train`` or ``valid`` for each key, which equal keys share.

    A hash of the seed and the key decides for each independently, so that adding a file does not move others. Raises
    UserError if one of the splits would be empty, and suggests a share that works.
    """
    if not 0 <= valid_share < 1:
        raise UserError(f"--valid-share {valid_share}: must be at least 0 and less than 1")
    numbers = {key: hash_number(key, seed) for key in set(keys)}
    for empty, name in (
        (0 < valid_share <= min(numbers.values()), VALID),
        (valid_share > max(numbers.values()), TRAIN),
    ):
        if empty:
            what = f"--valid-share {valid_share} of {len(numbers)} {split_by}(s) leaves {name} empty"
            raise UserError(f"{what}; {share_advice(numbers, seed)}")
    return [VALID if numbers[key] < valid_share else TRAIN for key in keys]


def hash_number(key: str, seed: int) -> float:
    """A fixed pseudo-random number in [0, 1) for a path or speaker."""
    digest = hashlib.sha256(f"{seed}\t{key}".encode("utf-8", "surrogateescape")).digest()
    return int.from_bytes(digest[:4], "big") / 2**32


def share_advice(keys: Collection[str], seed: int) -> str:
    """A share that assigns some of these files or speakers to each split."""
    numbers = sorted(hash_number(key, seed) for key in set(keys))
    if len(numbers) == 1:
        return "there is only one: use --valid-share 0"
    share = f"a small share that leaves neither empty is {middle(numbers):.4g}"
    return f"{share}; or try another --seed, or 0 for no valid.tsv"


def middle(numbers: list[float]) -> float:
    """Between the first two."""
    return (numbers[0] + numbers[1]) / 2
