"""Pseudo-labels: timeline, votes, removed clusters, exact resuming, two ranks, and clusters that become speakers."""

import io
import statistics
from collections import Counter

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode

from dinosr_plugin.errors import UserError
from dinosr_plugin.tasks import clean_weights, pseudo_labels
from dinosr_plugin.tasks.pseudo_labels import GATHERED, PseudoLabels, gather_observations, most_frequent
from support.two_ranks import results_of_two_ranks

metrics = pytest.importorskip("sklearn.metrics")


def observe_all(pseudo: PseudoLabels, labels: list[int], losses=None):
    """The teacher sees every utterance."""
    losses = torch.ones(len(labels)) if losses is None else torch.tensor(losses)
    pseudo.observe(torch.arange(len(labels)), torch.tensor(labels), losses)


def with_queues(queues: list[list[int]], n_clusters: int, **settings) -> PseudoLabels:
    """After epoch 5, in which labels were updated."""
    pseudo = PseudoLabels(torch.tensor([queue[-1] for queue in queues]), n_clusters, **settings)
    pseudo.queue, pseudo.epoch = torch.tensor(queues), 5
    return pseudo


# ---- the timeline ----------------------------------------------------------------------------------------------------


def test_the_timeline_of_the_paper():
    """e = epoch - 1: the teacher starts at e = 2; the first update is at the end of e = 4."""
    pseudo = PseudoLabels(torch.tensor([0, 1, 2]), 3)
    assert [e for e in range(8) if pseudo.teacher_active(e + 1)] == [2, 3, 4, 5, 6, 7]
    assert [e for e in range(8) if pseudo.updates_labels(e + 1)] == [4, 5, 6, 7]
    lengths, changed = {}, {}
    for e in range(6):
        if pseudo.teacher_active(e + 1):
            observe_all(pseudo, [1, 2, 0])
        changed[e] = pseudo.finish_epoch(e + 1)["labels_changed"]
        lengths[e] = (pseudo.queue >= 0).sum(1).unique().tolist()
    assert lengths == {0: [2], 1: [2], 2: [3], 3: [4], 4: [5], 5: [5]}
    assert changed == {0: 0, 1: 0, 2: 0, 3: 0, 4: 1, 5: 0}
    assert pseudo.queue.tolist() == [[0, 1, 1, 1, 1], [1, 2, 2, 2, 2], [2, 0, 0, 0, 0]] and pseudo.epoch == 6


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 8])
@pytest.mark.parametrize("fixed", [6, 9])
def test_the_queue_is_full_at_the_first_update_and_not_before(length, fixed):
    pseudo = PseudoLabels(torch.zeros(2), 1, fixed_epochs=fixed, queue_length=length)
    places = []
    for epoch in range(1, fixed + 1):
        if pseudo.teacher_active(epoch):
            observe_all(pseudo, [0, 0])
        pseudo.finish_epoch(epoch)
        places.append((pseudo.queue >= 0).sum(1).tolist())
    assert places[-1] == [length] * 2 and places[0] == [length // 2] * 2
    assert length % 2 == 0 or places[-2] == [length - 1] * 2


def test_labels_are_updated_every_second_epoch():
    pseudo = PseudoLabels(torch.tensor([0]), 2, fixed_epochs=2, queue_length=1, update_freq=2)
    assert [epoch for epoch in range(8) if pseudo.updates_labels(epoch)] == [2, 4, 6]
    for epoch in (1, 2, 3):
        observe_all(pseudo, [epoch % 2])
        pseudo.finish_epoch(epoch)
    assert pseudo.labels.tolist() == [0] and pseudo.queue.tolist() == [[1]]
    pseudo.finish_epoch(4)  # nothing is seen: the queue votes all the same
    assert pseudo.labels.tolist() == [1]


def test_an_epoch_is_finished_once():
    pseudo = PseudoLabels(torch.tensor([0]), 1)
    pseudo.finish_epoch(1)
    with pytest.raises(ValueError, match="epoch 1 is finished already"):
        pseudo.finish_epoch(1)


def test_settings_are_checked(monkeypatch):
    with pytest.raises(ValueError, match="tie_rule=latest: must be one of"):
        PseudoLabels(torch.tensor([0]), 1, tie_rule="latest")
    monkeypatch.setattr(clean_weights.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="pip install scikit-learn"):
        PseudoLabels(torch.tensor([0]), 1)


# ---- votes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "queue, newest, oldest",
    [
        ([1, 1, 2, 2, 2], 2, 2),
        ([1, 1, 2, 3, 2], 2, 1),
        ([2, 1, 1, 2, 3], 2, 2),
        ([3, 1, 2, 1, 2], 2, 1),
        ([5, 4, 3, 2, 1], 1, 5),
        ([-1, -1, -1, 4, 3], 3, 4),
        ([-1, -1, -1, -1, -1], -1, -1),
    ],
)
def test_the_most_frequent_label_and_ties(queue, newest, oldest):
    rows = torch.tensor([queue])
    assert most_frequent(rows, "newest").tolist() == [newest] and most_frequent(rows, "oldest").tolist() == [oldest]


def reference(queue: list[int], tie_rule: str) -> int:
    labels = [label for label in queue if label >= 0]
    if tie_rule == "oldest":
        return statistics.mode(labels)  # the first of those that are equally frequent
    counts = Counter(labels)
    return next(label for label in reversed(labels) if counts[label] == max(counts.values()))


@given(st.data(), st.integers(1, 8), st.sampled_from(["newest", "oldest"]))
def test_votes_equal_those_of_a_plain_loop(data, length, tie_rule):
    queues = []
    for _ in range(data.draw(st.integers(1, 6))):
        places = data.draw(st.integers(1, length))
        labels = data.draw(st.lists(st.integers(0, 4), min_size=places, max_size=places))
        queues.append([-1] * (length - places) + labels)
    assert most_frequent(torch.tensor(queues), tie_rule).tolist() == [reference(queue, tie_rule) for queue in queues]


def test_the_teachers_label_is_the_newest_of_the_vote():
    queues = [[9, 1, 1, 2, 2], [1, 1, 1, 2, 2], [-1, -1, 1, 1, 2], [4, 5, 6, 7, 8]]
    utterances, teacher = torch.tensor([3, 0, 2, 1]), torch.tensor([3, 1, 2, 2])
    for tie_rule in ("newest", "oldest"):
        pseudo = with_queues(queues, 10, tie_rule=tie_rule)
        expected = [reference([*queues[i], t][-5:], tie_rule) for i, t in zip(utterances.tolist(), teacher.tolist())]
        assert pseudo.voted(utterances, teacher, 6).tolist() == expected
    assert expected == [5, 1, 1, 2]
    assert pseudo.voted(utterances, teacher, 4).tolist() == teacher.tolist()  # before labels are updated
    assert pseudo.queue.tolist() == queues


def test_the_label_after_an_epoch_is_the_one_that_was_voted():
    torch.manual_seed(0)
    pseudo = PseudoLabels(torch.arange(40) % 4, 4)
    for epoch in range(1, 9):
        teacher = torch.randint(4, (40,))
        voted = pseudo.voted(torch.arange(40), teacher, epoch)
        assert (pseudo.labels == torch.arange(40) % 4).all() or epoch > 5
        if pseudo.teacher_active(epoch):
            observe_all(pseudo, teacher.tolist())
        pseudo.finish_epoch(epoch)
        assert torch.equal(pseudo.labels, voted) == (epoch >= 5)


# ---- clusters, weights and figures -----------------------------------------------------------------------------------


def test_removed_clusters():
    """Those of the first labels without utterances: neither 3, which none had, nor 2, which comes back."""
    pseudo = PseudoLabels(torch.tensor([0, 1, 2]), 4, fixed_epochs=1, queue_length=3)
    observe_all(pseudo, [0, 1, 1])
    assert pseudo.finish_epoch(1)["clusters"] == 2
    assert pseudo.queue.tolist() == [[-1, 0, 0], [-1, 1, 1], [-1, 2, 1]]
    assert pseudo.labels.tolist() == [0, 1, 1] and pseudo.removed.tolist() == [False, False, True, False]

    pseudo.queue = torch.tensor([[0, 0, 0], [1, 2, 2], [1, 1, 1]])
    utterance = torch.tensor([1])
    assert pseudo.voted(utterance, torch.tensor([0]), 2).tolist() == [0]  # the vote is for 2, which is removed
    assert pseudo.voted(utterance, torch.tensor([1]), 2).tolist() == [1]
    observe_all(pseudo, [0, 0, 1])
    assert pseudo.finish_epoch(2)["clusters"] == 3
    assert pseudo.labels.tolist() == [0, 2, 1] and not pseudo.removed.any()


def test_weights_are_those_of_the_mixture():
    losses = np.exp(np.random.default_rng(0).normal([-6.0] * 70 + [1.0] * 30, 0.5)).tolist()
    pseudo = PseudoLabels(torch.arange(100) % 2, 2, seed=7)
    observe_all(pseudo, [0] * 100, losses)
    figures = pseudo.finish_epoch(1)
    expected = clean_weights.clean_weights(np.array(losses, dtype=np.float32), seed=7)
    assert np.array_equal(pseudo.weights.numpy(), expected)
    assert figures["clean_share"] == 0.7 and figures["mean_weight"] == pytest.approx(expected.mean(), abs=1e-6)


def test_utterances_that_were_not_seen_keep_queue_weight_and_label():
    pseudo = with_queues([[0, 0, 0, 1, 1]] * 50 + [[1] * 5] * 50, 2)
    pseudo.labels[:50] = 0
    pseudo.weights[:] = torch.rand(100)
    before, seen = pseudo.state_dict(), torch.arange(0, 100, 2)
    pseudo.observe(seen, torch.ones(50, dtype=torch.int64), torch.linspace(0.1, 2, 50).exp())
    assert pseudo.finish_epoch(6)["labels_changed"] == 0.25
    for name in ("queue", "weights", "labels"):
        unseen = torch.arange(1, 100, 2)
        assert torch.equal(getattr(pseudo, name)[unseen], before[name][unseen]), name
        assert not torch.equal(getattr(pseudo, name)[seen], before[name][seen]), name
    assert (pseudo.seen_label == -1).all() and pseudo.seen_loss.isnan().all()


def test_figures():
    pseudo = with_queues([[0, 1, 1]] * 3 + [[0, 0, 0]] * 2 + [[2, 2, 0]], 3, queue_length=3, fixed_epochs=2)
    pseudo.labels = before = torch.tensor([0, 1, 1, 0, 0, 2])
    pseudo.weights = torch.tensor([0.0, 0.5, 1.0, 1.0, 0.2, 0.9])
    figures = pseudo.finish_epoch(6)
    assert pseudo.labels.tolist() == [1, 1, 1, 0, 0, 2]
    nmi = metrics.normalized_mutual_info_score(before, pseudo.labels)
    assert figures == {
        "clusters": 3,
        "largest_cluster": 0.5,
        "labels_changed": pytest.approx(1 / 6),
        "labels_nmi": pytest.approx(nmi),
        "mean_weight": pytest.approx(0.6),
        "clean_share": 0.5,
    }


# ---- resuming --------------------------------------------------------------------------------------------------------

N, K = 12, 4


def new(**settings) -> PseudoLabels:
    return PseudoLabels(torch.arange(N) % K, K, **{"fixed_epochs": 2, "queue_length": 3, **settings})


def saved(state: dict) -> dict:
    """The state after a round trip through a file."""
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def carry_out(pseudo: PseudoLabels, updates: list) -> list[dict]:
    """An update is (utterances, labels, losses); None ends an epoch."""
    figures = []
    for update in updates:
        if update is None:
            figures.append(pseudo.finish_epoch(pseudo.epoch + 1))
        else:
            pseudo.observe(*map(torch.tensor, update))
    return figures


@st.composite
def one_update(draw):
    utterances = draw(st.lists(st.integers(0, N - 1), min_size=1, unique=True))
    draws = lambda values: draw(st.lists(values, min_size=len(utterances), max_size=len(utterances)))
    return utterances, draws(st.integers(0, K - 1)), draws(st.floats(1e-3, 9))


def assert_same_state(first: PseudoLabels, second: PseudoLabels):
    a, b = first.state_dict(), second.state_dict()
    assert a.keys() == b.keys() and a.pop("epoch") == b.pop("epoch")
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name].nan_to_num(-1), b[name].nan_to_num(-1)), name


@given(st.lists(st.one_of(st.none(), one_update()), max_size=8), st.data(), st.sampled_from(["newest", "oldest"]))
def test_a_run_that_resumes_anywhere_equals_one_that_was_not_interrupted(updates, data, tie_rule):
    place = data.draw(st.integers(0, len(updates)))
    whole, first, second = (new(tie_rule=tie_rule) for _ in range(3))
    figures = carry_out(first, updates[:place])
    second.load_state_dict(saved(first.state_dict()))
    assert_same_state(second, first)
    assert figures + carry_out(second, updates[place:]) == carry_out(whole, updates)
    assert_same_state(second, whole)


def test_a_saved_state_does_not_change_with_the_run():
    pseudo = new()
    state = pseudo.state_dict()
    copies = {name: torch.as_tensor(value).clone() for name, value in state.items()}
    other = new()
    other.load_state_dict(state)
    for each in (pseudo, other):
        for epoch in (1, 2):
            observe_all(each, [0] * N)
            each.finish_epoch(epoch)
        observe_all(each, [0] * N)
    assert all(torch.as_tensor(state[name]).allclose(copies[name], equal_nan=True) for name in state)
    assert not torch.equal(pseudo.labels, copies["labels"])


@pytest.mark.parametrize(
    "other, what",
    [
        (lambda: PseudoLabels(torch.arange(9) % K, K, queue_length=3), "12 utterances, not 9"),
        (lambda: PseudoLabels(torch.arange(N) % K, 5, queue_length=3), "4 clusters, not 5"),
        (lambda: new(queue_length=5), "3 labels in a queue, not 5"),
    ],
)
def test_the_state_of_another_run_is_refused(other, what):
    with pytest.raises(UserError, match=f"^the checkpoint has pseudo-labels with {what}; resume with the data"):
        other().load_state_dict(new().state_dict())


# ---- two ranks -------------------------------------------------------------------------------------------------------

SIZES = [(3, 5), (0, 4), (0, 0), (GATHERED, 1), (2, GATHERED + 1), (700, 600)]
COLLECTIVES = (
    "all_reduce",
    "broadcast",
    "all_gather",
    "all_gather_object",
    "reduce",
    "gather",
    "broadcast_object_list",
)


def observations(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    utterances = torch.randperm(2000, generator=generator)[:n]
    return utterances, torch.randint(20, (n,), generator=generator), torch.randn(n, generator=generator).exp()


def updates_of(epoch: int):
    """Three updates of an epoch; an update is half of the utterances or fewer."""
    for part, n in enumerate((700, 900, 100)):
        yield [each[part * 700 : part * 700 + n] for each in observations(2000, seed=epoch)]


def one_of_two_ranks(rank: int, folder: str):
    torch.set_num_threads(1)
    calls = []

    def counted(name, function):
        return lambda *args, **kwargs: (calls.append(name), function(*args, **kwargs))[1]

    for name in COLLECTIVES:
        setattr(dist, name, counted(name, getattr(dist, name)))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    result = {"gathered": [], "calls": [], "fits": 0}
    for case, sizes in enumerate(SIZES):
        calls.clear()
        result["gathered"].append(gather_observations(*observations(sizes[rank], seed=2 * case + rank)))
        result["calls"].append(len(calls))

    fit = pseudo_labels.clean_weights
    pseudo_labels.clean_weights = lambda *args: (result.update(fits=result["fits"] + 1), fit(*args))[1]
    pseudo = PseudoLabels(torch.arange(2000) % 20, 20, fixed_epochs=2, queue_length=3)
    result["figures"] = []
    for epoch in (1, 2, 3):
        for update in updates_of(epoch):
            half = [each[:30] if rank == 0 else each[30:] for each in update]
            pseudo.observe(*gather_observations(*half))
        result["figures"].append(pseudo.finish_epoch(epoch))
    torch.save({**result, "state": pseudo.state_dict()}, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    return results_of_two_ranks(one_of_two_ranks, tmp_path_factory)


def test_observations_of_all_ranks_in_the_order_of_ranks(two_ranks):
    for case, sizes in enumerate(SIZES):
        parts = [observations(n, seed=2 * case + rank) for rank, n in enumerate(sizes)]
        expected = [torch.cat(each) for each in zip(*parts)]
        for result in two_ranks:
            utterances, labels, losses = result["gathered"][case]
            assert torch.equal(utterances, expected[0]) and torch.equal(labels, expected[1])
            assert torch.equal(losses, expected[2].double())


def test_one_collective_an_update(two_ranks):
    """A second one for more utterances of a rank than it has places for."""
    assert two_ranks[0]["calls"] == two_ranks[1]["calls"] == [1, 1, 1, 1, 2, 2]


def test_two_ranks_equal_one(two_ranks):
    pseudo, figures = PseudoLabels(torch.arange(2000) % 20, 20, fixed_epochs=2, queue_length=3), []
    for epoch in (1, 2, 3):
        for update in updates_of(epoch):
            pseudo.observe(*gather_observations(*update))
        figures.append(pseudo.finish_epoch(epoch))
    assert 0 < figures[-1]["mean_weight"] < 1 and figures[1]["labels_changed"] > 0
    for result in two_ranks:
        assert result["figures"] == figures
        for name, value in pseudo.state_dict().items():
            assert torch.equal(torch.as_tensor(result["state"][name]), torch.as_tensor(value)) or name == "seen_loss"


def test_the_mixture_is_fitted_on_one_rank(two_ranks):
    assert [result["fits"] for result in two_ranks] == [3, 0]


@pytest.mark.parametrize(("backend", "device"), [("nccl", "cuda"), ("gloo", "cpu")])
@pytest.mark.parametrize("held", ["cuda", "cpu"])
def test_tensors_are_communicated_on_the_device_of_the_process_group(monkeypatch, backend, device, held):
    """... and returned to that of the model. Tensors without values take the place of those on a GPU."""
    devices = []
    for name, value in {"get_backend": backend, "is_initialized": True, "get_world_size": 2, "get_rank": 1}.items():
        monkeypatch.setattr(dist, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(dist, "broadcast", lambda weights, source: devices.append(weights.device.type))
    monkeypatch.setattr(pseudo_labels, "gather_rows", lambda rows: (devices.append(rows.device.type), rows)[1])
    pseudo = PseudoLabels(torch.zeros(4), 2)
    with FakeTensorMode():
        labels, losses = torch.zeros(4, dtype=torch.long, device=held), torch.ones(4, device=held)
        results = [*gather_observations(labels, labels, losses), pseudo.fit_weights(losses)]
    assert devices == [device, device] and {each.device.type for each in results} == {held}


def test_losses_are_gathered_exactly_on_one_rank():
    losses = torch.tensor([torch.nan, torch.inf, 1e-45, 3.1])
    gathered = gather_observations(torch.tensor([3, 1, 2**40, 0]), torch.tensor([0, 1, 2, 3]), losses)
    assert gathered[0].tolist() == [3, 1, 2**40, 0] and gathered[1].tolist() == [0, 1, 2, 3]
    assert torch.equal(gathered[2].nan_to_num(-1), losses.double().nan_to_num(-1))


# ---- from clusters to speakers ---------------------------------------------------------------------------------------

SPEAKERS, CLUSTERS, UTTERANCES, WIDTH, BATCH = 20, 30, 1500, 16, 150
DECAY = 0.9


class ClassMeans:
    """A teacher without a network: the nearest of moving class means, with the moving shares of classes as prior."""

    def __init__(self, embeddings: torch.Tensor, labels: torch.Tensor):
        self.sums = self.add(embeddings, labels, torch.ones(len(labels))) * BATCH / len(labels)  # (K, D + 1)

    @staticmethod
    def add(embeddings: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        rows = torch.cat([embeddings, torch.ones(len(labels), 1)], dim=1) * weights[:, None]  # (n, D + 1)
        return torch.zeros(CLUSTERS, WIDTH + 1).index_add_(0, labels, rows)

    def logits(self, embeddings: torch.Tensor) -> torch.Tensor:
        """(n, D) -> (n, K) log densities of Gaussians with variance 2: 1 within a speaker, 1 of a crop."""
        counts = self.sums[:, -1].clamp(min=1e-6)
        distances = torch.cdist(embeddings, self.sums[:, :-1] / counts[:, None])
        return counts.log() - distances.square() / 4

    def step(self, embeddings: torch.Tensor, labels: torch.Tensor, weights: torch.Tensor) -> None:
        self.sums = DECAY * self.sums + (1 - DECAY) * self.add(embeddings, labels, weights)


def test_clusters_become_speakers():
    """Student and teacher see a different noisy crop of each utterance in each epoch."""
    cluster = pytest.importorskip("sklearn.cluster")
    torch.manual_seed(0)
    speakers = torch.arange(UTTERANCES) % SPEAKERS
    embeddings = 2 * torch.randn(SPEAKERS, WIDTH)[speakers] + torch.randn(UTTERANCES, WIDTH)
    first = cluster.KMeans(CLUSTERS, init="random", n_init=1, random_state=0).fit_predict(embeddings.numpy())
    pseudo = PseudoLabels(torch.from_numpy(first), CLUSTERS)
    teacher = ClassMeans(embeddings, pseudo.labels)
    nmi = [metrics.normalized_mutual_info_score(speakers, pseudo.labels)]
    clusters, weights = [CLUSTERS], []
    for epoch in range(1, 31):
        for utterances in torch.randperm(UTTERANCES).split(BATCH):
            crops = embeddings[utterances] + torch.randn(2, BATCH, WIDTH)  # (2, BATCH, WIDTH)
            if pseudo.teacher_active(epoch):
                logits = teacher.logits(crops[0]).masked_fill(pseudo.removed, -torch.inf)
                labels = logits.argmax(1)
                losses = F.cross_entropy(logits, pseudo.voted(utterances, labels, epoch), reduction="none")
                pseudo.observe(*gather_observations(utterances, labels, losses))
            teacher.step(crops[1], pseudo.labels[utterances], pseudo.weights[utterances])
        figures = pseudo.finish_epoch(epoch)
        clusters.append(int(figures["clusters"]))
        nmi.append(metrics.normalized_mutual_info_score(speakers, pseudo.labels))
        weights.append(figures["mean_weight"])
    assert clusters[:5] == [CLUSTERS] * 5 and nmi[:5] == [nmi[0]] * 5  # labels are fixed
    assert SPEAKERS - 2 <= clusters[-1] <= SPEAKERS + 3 and nmi[-1] > nmi[0] + 0.015
    assert weights[:2] == [1, 1] and all(0 < weight < 1 for weight in weights[2:])
