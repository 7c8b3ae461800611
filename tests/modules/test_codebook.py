"""Online codebooks (DinoSR section 3.2): what moves, and that ranks and micro-batches count as one batch."""

import pytest
import torch
import torch.distributed as dist
from torch.testing import assert_close

from dinosr_plugin.modules.codebook import Codebooks
from support.two_ranks import results_of_two_ranks

K, V, D = 2, 6, 4


def codebooks(**settings) -> Codebooks:
    torch.manual_seed(0)
    return Codebooks(K, V, D, **settings)


def update(books: Codebooks, *batches: torch.Tensor, decay: float = 0.9):
    for frames in batches:
        books.collect(frames, books.assign(frames))
    books.step_(decay)


def frames_near(books: Codebooks, code: int, n: int, seed: int = 0) -> torch.Tensor:
    """(K, n, D): frames whose nearest codeword is ``code``."""
    noise = torch.randn(K, n, D, generator=torch.Generator().manual_seed(seed))
    return books.centroids()[:, code : code + 1] + 1e-3 * noise


def clusters(n: int, spread: float = 0.01) -> torch.Tensor:
    """(K, V * n, D): V well-separated clusters, shuffled."""
    centres = 10 * torch.cat([torch.eye(D), -torch.eye(D)])[:V]
    frames = centres.repeat(n, 1) + spread * torch.randn(K, V * n, D)
    return frames[:, torch.randperm(V * n)]


def test_initial_values():
    """Sums are instance-normalised over V for each dimension, counts are 1."""
    books = Codebooks(3, 64, 8)
    assert_close(books.sums.mean(1), torch.zeros(3, 8), atol=1e-5, rtol=0)
    assert_close(books.sums.var(1, unbiased=False), torch.ones(3, 8), atol=1e-3, rtol=0)
    assert torch.equal(books.counts, torch.ones(3, 64))
    assert not torch.equal(books.sums[0], books.sums[1])


def test_nearest_in_euclidean_distance():
    books = Codebooks(3, 20, 8)
    books.counts.uniform_(0.5, 4)
    frames = torch.randn(3, 200, 8)
    expected = torch.cdist(frames.double(), books.centroids().double()).argmin(-1)
    assert torch.equal(books.assign(frames), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(books.assign(frames), expected)


def test_update_formula():
    """n <- tau n + (1 - tau) count, S <- tau S + (1 - tau) sum of the code's frames."""
    books = codebooks()
    sums, counts = books.sums.clone(), books.counts.clone()
    frames = torch.randn(K, 50, D)
    codes = books.assign(frames)
    update(books, frames, decay=0.7)
    for k in range(K):
        for code in codes[k].unique():
            assigned = frames[k, codes[k] == code]
            assert_close(books.counts[k, code], 0.7 * counts[k, code] + 0.3 * len(assigned))
            assert_close(books.sums[k, code], 0.7 * sums[k, code] + 0.3 * assigned.sum(0))


def test_a_code_without_frames_keeps_sum_and_count_bit_for_bit():
    books = codebooks()
    books.counts.uniform_(0.1, 3)
    sums, counts = books.sums.clone(), books.counts.clone()
    for _ in range(20):
        update(books, frames_near(books, 2, 5))
    others = [code for code in range(V) if code != 2]
    assert torch.equal(books.sums[:, others], sums[:, others])
    assert torch.equal(books.counts[:, others], counts[:, others])
    assert not torch.equal(books.sums[:, 2], sums[:, 2])


def test_decay_1_never_moves():
    books = codebooks()
    sums, counts = books.sums.clone(), books.counts.clone()
    for _ in range(5):
        update(books, torch.randn(K, 40, D), decay=1.0)
    assert torch.equal(books.sums, sums) and torch.equal(books.counts, counts)


def test_assigning_and_collecting_alone_move_nothing():
    books = codebooks()
    sums = books.sums.clone()
    frames = torch.randn(K, 40, D)
    codes = books.assign(frames)
    books.collect(frames, codes)
    assert torch.equal(books.sums, sums) and torch.equal(books.assign(frames), codes)
    books.step_(0.9)
    moved = books.sums.clone()
    assert not torch.equal(moved, sums)
    books.step_(0.9)  # without new statistics
    assert torch.equal(books.sums, moved)


def test_micro_batches_count_as_one_batch():
    one, two = codebooks(), codebooks()
    for _ in range(3):
        frames = torch.randn(K, 60, D)
        update(one, frames)
        update(two, frames[:, :25], frames[:, 25:])
    assert_close(one.sums, two.sums)
    assert_close(one.counts, two.counts)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_float32_in_any_precision_of_the_model(dtype):
    books = torch.nn.Sequential(codebooks(revive_after=3)).to(dtype)[0]
    update(books, torch.randn(K, 30, D).to(dtype))
    for buffer in books.buffers():
        assert buffer.dtype == torch.float32
    assert books.assign(torch.randn(K, 30, D).to(dtype)).dtype == torch.int64


def test_revival():
    """After ``revive_after`` updates without frames, not before, a codeword moves to one of the update's frames."""
    books = codebooks(revive_after=3)
    start = books.sums.clone()
    dead = [code for code in range(V) if code != 2]
    for _ in range(2):
        update(books, frames_near(books, 2, 20))
        assert torch.equal(books.sums[:, dead], start[:, dead])
    frames = frames_near(books, 2, 20, seed=9)
    update(books, frames)
    for k in range(K):
        distance = torch.cdist(books.centroids()[k, dead], frames[k])
        assert (distance.min(1).values == 0).all(), "not a real frame"
        assert len(set(distance.argmin(1).tolist())) == len(dead), "two codewords moved to the same frame"
    assert torch.equal(books.counts[:, dead], torch.ones(K, len(dead))) and (books.idle == 0).all()


def test_a_codeword_that_receives_frames_now_and_then_is_not_dead():
    books = codebooks(revive_after=3)
    target = books.centroids()[:, :1].clone()
    start = books.sums[:, 0].clone()
    for step in range(8):
        near = frames_near(books, 2, 20)
        update(books, torch.cat([near, target], dim=1) if step % 2 else near, decay=0.9)
    assert_close(books.centroids()[:, 0], target[:, 0])
    assert_close(books.sums[:, 0] / start, (books.counts[:, 0:1]).expand(K, D))


@pytest.mark.parametrize("revive_after, raised", [(0, False), (3, True)])
def test_revival_raises_the_number_of_active_codewords(revive_after, raised):
    """Half of a codebook starts far from all frames: only with revival does it ever receive any."""
    torch.manual_seed(0)
    books = codebooks(revive_after=revive_after)
    books.sums[:, V // 2 :] += 100
    active = []
    for _ in range(10):
        frames = torch.randn(K, 40 * V, D)
        codes = books.assign(frames)
        active.append([len(row.unique()) for row in codes])
        books.collect(frames, codes)
        books.step_(0.9)
    assert active[0] == [V // 2] * K
    assert active[-1] == [V if raised else V // 2] * K


def test_without_revival_the_dead_stay_dead():
    books = codebooks(revive_after=0)
    dead = books.sums[:, 3].clone()
    for _ in range(10):
        update(books, frames_near(books, 2, 20))
    assert torch.equal(books.sums[:, 3], dead)


@pytest.mark.parametrize("seed", range(8))
def test_start_from_frames(seed):
    """Every codeword is used, frames are near their codeword, and counts are those of one pass over the frames."""
    torch.manual_seed(seed)
    frames = clusters(50)
    books = codebooks()
    torch.manual_seed(100 + seed)
    books.start_from_(frames)
    codes = books.assign(frames)
    assert all(len(row.unique()) == V for row in codes)
    assert (books.counts.sum(1) <= frames.size(1) + V).all() and (books.counts >= 1).all()
    nearest = books.centroids().gather(1, codes.unsqueeze(-1).expand_as(frames))
    assert (frames - nearest).norm(dim=-1).mean() < 0.5 * frames.norm(dim=-1).mean()
    assert books.pending is None and books.spare is None and (books.idle == 0).all()


def test_start_from_frames_is_k_means():
    """Two clusters and two codewords: each codeword is the mean of one cluster and counts its frames."""
    torch.manual_seed(0)
    frames = torch.cat([5 + torch.randn(1, 30, D), -5 + torch.randn(1, 70, D)], dim=1)
    books = Codebooks(1, 2, D)
    books.start_from_(frames)
    counts, order = books.counts[0].sort()
    assert counts.tolist() == [30, 70]
    assert_close(books.centroids()[0, order], torch.stack([frames[0, :30].mean(0), frames[0, 30:].mean(0)]))


def test_the_start_is_determined_by_the_seed():
    frames = clusters(50)
    starts = []
    for seed in (7, 7, 8):
        books = codebooks()
        torch.manual_seed(seed)
        books.start_from_(frames)
        starts.append(books.sums.clone())
    assert torch.equal(starts[0], starts[1]) and not torch.equal(starts[0], starts[2])


def test_start_from_fewer_frames_than_codewords():
    books = codebooks()
    books.start_from_(torch.randn(K, 3, D))
    assert books.centroids().isfinite().all()


# -- two ranks -------------------------------------------------------------------------------------------------------

COLLECTIVES = ("all_reduce", "broadcast", "all_gather", "all_gather_into_tensor", "reduce", "gather")


def two_rank_batches():
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(K, 40, D, generator=generator) for _ in range(4)]


def state(books: Codebooks) -> list:
    return [buffer.clone() for buffer in books.buffers()]


def one_of_two_ranks(rank: int, folder: str):
    """One rank: half of every batch; then revival; then a start from its own frames."""
    torch.set_num_threads(1)
    calls = []

    def counted(name, function):
        return lambda *args, **kwargs: (calls.append(name), function(*args, **kwargs))[1]

    for name in COLLECTIVES:
        setattr(dist, name, counted(name, getattr(dist, name)))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result = {}
    calls.clear()

    books = codebooks()
    for batch in two_rank_batches():
        half = batch[:, :15] if rank == 0 else batch[:, 15:]
        update(books, half[:, :4], half[:, 4:])  # two micro-batches
    result["halves"], result["halves_calls"] = state(books), list(calls)

    books = codebooks(revive_after=2)
    torch.manual_seed(100 + rank)
    calls.clear()
    for _ in range(2):
        update(books, frames_near(books, 2, 20, seed=rank))
    result["revived"], result["revived_calls"] = state(books), list(calls)

    books = codebooks()
    torch.manual_seed(200 + rank)
    books.start_from_(clusters(20, spread=1.0))
    result["started"] = state(books)
    torch.save(result, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return results_of_two_ranks(one_of_two_ranks, tmp_path_factory)


def test_two_ranks_end_with_the_codebooks_of_one(two_ranks):
    """Half a batch on each of two ranks equals the whole batch on one."""
    books = codebooks()
    for batch in two_rank_batches():
        update(books, batch)
    for first, second, alone in zip(two_ranks[0]["halves"], two_ranks[1]["halves"], state(books)):
        assert torch.equal(first, second)
        assert_close(first, alone)


def test_one_collective_a_step(two_ranks):
    """Not one for each codebook or micro-batch, also with revival."""
    for rank in two_ranks:
        assert rank["halves_calls"] == ["all_reduce"] * len(two_rank_batches())
        assert rank["revived_calls"] == ["all_reduce"] * 2


def test_ranks_revive_and_start_alike(two_ranks):
    for scenario in ("revived", "started"):
        for first, second in zip(two_ranks[0][scenario], two_ranks[1][scenario]):
            assert torch.equal(first, second)
    books = codebooks()
    assert not torch.equal(two_ranks[0]["revived"][0][:, 0], books.sums[:, 0]), "nothing was revived"
    # the frames of rank 0 are near codeword 2, and so are the revived codewords
    assert (two_ranks[0]["revived"][0][:, 0] - books.centroids()[:, 2]).abs().max() < 0.1
